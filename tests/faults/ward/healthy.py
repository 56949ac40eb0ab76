"""Trainings with nothing wrong in them: every family, and what looks like a disease and is none."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from partimento.audio.synth import band
from partimento.codecs.codec import open_codec
from partimento.codecs.resident import RESIDENT
from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.tokens.draw import Batch
from partimento.tokens.writer import PackWriter
from partimento.training import engine
from partimento.training.publish import export_weights
from partimento.training.tasks.codes import CodesTask
from ward import Healthy, toys
from ward.logs import scaled

ALONE = {"start": None}
"""No adversary."""

# -- codes from scratch ------------------------------------------------------------------------------------------------


def rvq_delay(folder: Path) -> Path:
    return toys.train(folder)


def rvq_parallel_muon(folder: Path) -> Path:
    optim = {"name": "muon", "lr": 3e-3, "muon_lr": 0.01, "schedule": "wsd"}
    return toys.train(folder, model={"pattern": "parallel", "dropout": 0.1}, optim=optim)


def rvq_flat_of_old_parts(folder: Path) -> Path:
    """Layer norm, GELU, sinusoids; a linear schedule, two micro-batches a step, weights of books that are learned."""
    model = {"pattern": "flat", "norm": "layer", "activation": "gelu", "positions": "sinusoidal", "qk_norm": False}
    optim = {"schedule": "linear", "batch": 4, "accumulate": 2, "lr": 3e-3}
    return toys.train(folder, model=model, data={"window": 96}, optim=optim, loss={"codebook_weights": "learned"})


def rvq_band(folder: Path) -> Path:
    """Real codes: the demo's band through the resident codec, of which it leaves many codes unused."""
    opened = open_codec(RESIDENT)
    writer = PackWriter(folder / "pack", opened.spec)
    for index in range(48):
        loop = band(3, index, seconds=4.0)
        codes_TK = opened.encode(torch.from_numpy(loop.wave_CN)[None])[0].numpy()
        writer.add(codes_TK, clip=loop.name, source=loop.source, tags=loop.tags)
    writer.finish()
    plan = {"valid_items": 8, "valid_every": 50}
    return toys.train(folder, steps=100, data={"pack": str(folder / "pack")}, optim={"lr": 3e-3}, train=plan)


def told() -> dict[str, Any]:
    return {"data": {"pack": str(toys.pack(captions=True)), "null_share": 0.2}}


TEXT = {"text_width": 16, "text_layers": 1, "text_heads": 2}


def dia(folder: Path) -> Path:
    demo = {"temperatures": [0.9], "guidance": [1.0, 2.0], "prompts": ["rising", "falling"]}
    model = {"width": 32, "layers": 2, "heads": 2, **TEXT}
    return toys.train(folder, "dia", model=model, demo=demo, **told())


def dia_adapters(folder: Path) -> Path:
    """Adapters beside the weights of a run on other music of the kind."""
    model = {"width": 32, "layers": 2, "heads": 2, **TEXT}
    first = toys.base(folder, "dia", run="first", model=model, **told())
    export_weights(first, folder / "start")
    pack = toys.write_pack(folder / "pack", clips=60, seed=5, captions=True)
    data = {"pack": str(pack), "null_share": 0.2}
    adapters = {"weights": str(folder / "start"), "lora_rank": 4, "pattern": "delay"}
    return with_model(folder, "dia", adapters, steps=120, data=data)


def with_model(folder: Path, family: str, model: dict[str, Any], *, steps: int, data: dict[str, Any]) -> Path:
    """With this section alone: sizes that the weights decide may not be given beside them."""
    tree = toys.config(family, data=data, optim={"lr": 2e-3}, steps=steps).model_dump(mode="json")
    with toys.playing():
        return engine.train(parse(tree | {"model": model}), runs=folder, run="run").path


def mot_adapters(folder: Path) -> Path:
    return toys.train(folder, "mot", **told())


def mot_full(folder: Path) -> Path:
    model = {"backbone": str(toys.llama()), "experts": "full", "text_length": 24}
    return with_model(folder, "mot", model, steps=160, **told())


# -- sound -------------------------------------------------------------------------------------------------------------


def codec(folder: Path) -> Path:
    return toys.train(folder, "codec", steps=80, adversary=ALONE)


def codec_adversary(folder: Path) -> Path:
    return toys.train(folder, "codec", steps=80, adversary={"start": 20, "period_width": 8, "window_width": 8})


def restore(folder: Path) -> Path:
    return toys.train(folder, "restore", steps=80, adversary=ALONE)


def restore_adversary(folder: Path) -> Path:
    return toys.train(folder, "restore", steps=80, adversary={"start": 20, "period_width": 8, "window_width": 8})


# -- what looks like a disease -----------------------------------------------------------------------------------------


def one_clip_by_heart(folder: Path) -> Path:
    pack = toys.write_pack(folder / "pack", clips=2, frames=(400, 401), seed=2, source=str)
    meant = "The model can learn at all: it overfits one clip."
    return toys.train(folder, data={"pack": str(pack)}, optim={"schedule": "constant"}, hypothesis=meant)


class Interrupted(CodesTask):
    """Asked to stop at step 80, as by Slurm."""

    def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
        if step == 80:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, micro, attempt)


def resumed(folder: Path) -> Path:
    try:
        toys.train(folder, task=Interrupted)
    except PartimentoError as err:
        if err.code != "SYS003":
            raise
    return toys.train(folder)


def rolled_back(folder: Path) -> Path:
    """Twelve steps of nonsense, once: a disk that failed for a minute."""
    spoilt: list[int] = []

    def bad(step: int) -> bool:
        if step < 120 or len(spoilt) >= 12:
            return False
        spoilt.append(step)
        return True

    return toys.train(folder, task=scaled(bad, 1e4), steps=250)


def flat_at_its_end(folder: Path) -> Path:
    optim = {"schedule": "wsd", "decay_share": 0.7, "min_lr": 0.0}
    return toys.train(folder, optim=optim, steps=300)


HEALTHY = (
    Healthy("rvq", "The code decoder, delayed books.", rvq_delay, slow=True),
    Healthy("rvq parallel", "Parallel books, dropout, Muon, warmup-stable-decay.", rvq_parallel_muon, slow=True),
    Healthy("rvq band", "Music of the demo's band, through the resident codec.", rvq_band, slow=True),
    Healthy(
        "rvq flat", "One book a step, layer norm, GELU, sinusoids, two micro-batches.", rvq_flat_of_old_parts, slow=True
    ),
    Healthy("dia", "Text and codes from scratch, with guided demos.", dia, slow=True),
    Healthy("dia adapters", "LoRA on weights of other music.", dia_adapters, slow=True),
    Healthy("mot adapters", "Experts beside a frozen Llama.", mot_adapters, slow=True),
    Healthy("mot full", "Copies of whole blocks as experts.", mot_full),
    Healthy("codec", "Without an adversary.", codec),
    Healthy("codec with adversary", "It begins at step 20.", codec_adversary, slow=True),
    Healthy("restore", "Without an adversary.", restore),
    Healthy("restore with adversary", "It begins at step 20.", restore_adversary, slow=True),
    Healthy("one clip", "By heart, as the hypothesis says.", one_clip_by_heart, slow=True),
    Healthy("resumed", "Stopped at step 80, gone on with.", resumed, slow=True),
    Healthy("rolled back", "Ten bad steps, one rollback, then as before.", rolled_back, slow=True),
    Healthy("at its end", "The rate has decayed to 0, so the loss is flat.", flat_at_its_end, slow=True),
)

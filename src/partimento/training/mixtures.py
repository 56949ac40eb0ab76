"""What a run of the `mot` family has learned leaves it: beside its backbone, or with it as one directory.

partimento      adapter.json and the tensors that were trained (`runs.adapters`); other trainings begin with them
transformers    backbone and experts together, which from_pretrained loads (`runs.mixture_out`); flat grids only
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from partimento.errors import PartimentoError
from partimento.models.mixture import MixtureModel
from partimento.progress import Progress
from partimento.runs import adapters, backbones, mixture_out
from partimento.runs.chosen import chosen
from partimento.runs.run import Run
from partimento.tokens.vocabulary import AudioVocabulary
from partimento.training.ema import named_state
from partimento.training.player import Player


def export_run(
    run: Path, to: str | Path, *, layout: str, weights: Literal["ema", "raw"], progress: Progress
) -> dict[str, Any]:
    """Write what the best checkpoint of the run (else its newest) learned into the folder `to`; returns {"to",
    "layout", "tensors", "parameters", "source"}.

    Raises RUN001, CKPT..., WEIGHTS008 (`to` exists), WEIGHTS009 (another layout), WEIGHTS020 to WEIGHTS023 (backbone),
    WEIGHTS025 (transformers cannot say its grid).
    """
    if layout not in ("partimento", "transformers"):
        raise PartimentoError(
            "WEIGHTS009",
            f"{run.name} is a Llama with experts, which cannot be written in the layout of {layout}",
            next="--as partimento, or --as transformers",
        )
    opened = Run.open(run)
    path = chosen(opened, progress.note)
    progress.stage("load", f"{path.name} of {opened.id}, {weights} weights")
    player = Player.from_checkpoint(path, weights)
    assert isinstance(player.module, MixtureModel)
    source = {"run": opened.id, "checkpoint": path.name, "weights": weights}
    if layout == "transformers":
        return {**_with_backbone(player, player.module, to, progress), "source": source}
    trained = named_state(player.module)
    numbers = sum(tensor.numel() for tensor in trained.values())
    progress.stage("write", f"{numbers:,} trained weights")
    adapters.save(to, trained, player.description(), source)
    return {"to": str(to), "layout": layout, "tensors": len(trained), "parameters": numbers, "source": source}


def _with_backbone(player: Player, module: MixtureModel, to: str | Path, progress: Progress) -> dict[str, Any]:
    base, config, spec = player.how["base"], module.decoder.config, player.spec
    backbone = backbones.require_llama(base["folder"], base["sha256"])
    return mixture_out.export_mixture(
        module,
        AudioVocabulary(config.llama.vocabulary, spec.codebooks, spec.cardinality, config.vocabulary),
        to,
        pattern=player.pattern,
        specials=player.specials,
        backbone=backbone.folder,
        spec=spec,
        progress=progress,
    )

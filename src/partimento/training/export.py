"""A trained codec leaves its run: weights in half precision, and a card of what they are and how they measure."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from partimento.codecs.measure import Passage, passage, summary
from partimento.codecs.resident import RESIDENT, from_weights, pack_weights, write_codec
from partimento.config import CodecConfig, parse
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.runs import checkpoint
from partimento.runs.run import Run
from partimento.training.tasks.crops import Recording, gather


def export_resident(
    run: str | Path, folder: str | Path, *, name: str = RESIDENT, progress: Progress | None = None
) -> dict[str, Any]:
    """Write weights.safetensors and card.json of a run of the `codec` family into `folder`; returns the card.

    Takes the newest checkpoint (averaged weights, if it has any) and measures it on every held-out recording, which
    the run's data must still be there for. Raises CODEC007 (not a codec's run, or nothing trained yet), RUN, CKPT.
    """
    progress = progress or Quiet()
    record = Run.open(Path(run)).record
    config = parse(record["config"], name="the run's configuration")
    path = checkpoint.newest(Run.open(Path(run)).checkpoints_path, note=progress.note)
    if not isinstance(config, CodecConfig) or path is None:
        raise PartimentoError(
            "CODEC007",
            f"there is no codec to export in {run}",
            why=f"its family is {config.family}" if path is not None else "it has no checkpoint yet",
            next="partimento train configs/experiments/resident_44k.toml",
        )
    part = "ema" if config.optim.ema > 0 else "model"
    saved = checkpoint.load(path, [part])
    progress.stage("measure", "held-out recordings go through the codec, so that the card can say how it does")
    sound = gather(config.data, saved.state["description"]["sample_rate"])
    if sound.identity() != saved.state["identity"]:
        progress.note("the recordings changed since the training; the figures are of those that are there now")
    content = pack_weights(saved.parts[part])
    card = {
        "schema": 1,
        "name": name,
        "description": "Neural audio codec: MDCT frames, ConvNeXt trunks, residual vector quantizer; mono.",
        "licence": "Apache-2.0",
        **saved.state["description"],
        "weights_bytes": len(content),
        "data": {
            "credits": config.data.credits,
            "train": _amounts(sound.train),
            "held_out": _amounts(sound.held_out),
            "identity": saved.state["identity"],
        },
        "recipe": _recipe(config, saved.step, part),
    }
    codec = from_weights(content, card)
    card["weights_sha256"] = codec.spec.weights
    passages: defaultdict[str, list[Passage]] = defaultdict(list)
    for number, recording in enumerate(sound.held_out, 1):
        passages[recording.kind].append(passage(codec, recording.wave_N))
        progress.update(number, len(sound.held_out), mel7=round(passages[recording.kind][-1].mel7, 3))
    figures = {kind: summary(codec, found).to_json() for kind, found in sorted(passages.items())}
    figures["all"] = summary(codec, [one for found in passages.values() for one in found]).to_json()
    card["figures"] = {**figures, "threads": torch.get_num_threads(), "measured_on": sound.identity()["held_out"]}
    write_codec(Path(folder), content, card)
    return card


def _amounts(recordings: list[Recording]) -> dict[str, dict[str, float]]:
    """Recordings and minutes of each kind."""
    amounts: defaultdict[str, dict[str, float]] = defaultdict(lambda: {"recordings": 0, "minutes": 0.0})
    for recording in recordings:
        amounts[recording.kind]["recordings"] += 1
        amounts[recording.kind]["minutes"] += len(recording.wave_N) / 44100 / 60
    return {kind: {k: round(v, 2) for k, v in amount.items()} for kind, amount in sorted(amounts.items())}


def _recipe(config: CodecConfig, steps: int, part: str) -> dict[str, Any]:
    """The configuration without the places of this machine, and how far it was followed."""
    tree = config.model_dump(mode="json")
    tree["data"]["folders"] = [Path(folder).name for folder in config.data.folders]
    return {
        "steps": steps,
        "weights": part,
        "config": {name: tree[name] for name in ("data", "model", "optim", "train")},
    }

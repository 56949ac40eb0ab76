"""What plays: a checkpoint of a run, or a folder that was exported of one, with its codec. The pack that it was trained
on is not needed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import partimento
from partimento.codecs.codec import Codec, open_like
from partimento.errors import PartimentoError
from partimento.progress import Progress
from partimento.runs import checkpoint, exported, playable
from partimento.runs.chosen import chosen
from partimento.runs.run import Run
from partimento.training import devices
from partimento.training.player import Player

Weights = Literal["ema", "raw"]
Precision = Literal["full", "bf16", "int8"]
PLAYING = ("rvq", "dia", "mot")


@dataclass(frozen=True)
class Source:
    """A player that is ready, and what it is called.

    `compile` and `precision` say how its steps are computed: the first changes what is played by rounding alone, the
    second by the rounding of its weights. `run` and `checkpoint` are names, also of an exported folder; `place` is the
    folder that was opened."""

    run: str
    checkpoint: str
    place: Path
    weights: Weights
    weights_sha256: str
    player: Player
    codec: Codec
    device: torch.device
    compile: bool = False
    precision: Precision = "full"

    def identity(self) -> dict[str, Any]:
        """What, beside the item, decides what is played."""
        base = self.player.how.get("base")
        return {
            "run": self.run,
            "checkpoint": self.checkpoint,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "base_weights_sha256": base["sha256"] if base else None,
            "precision": self.precision,
            "codec": self.player.spec.to_json(),
        }

    def made_with(self) -> dict[str, str]:
        """What may change the last bits: versions and device."""
        name = self.device.type
        if name == "cuda":
            name = torch.cuda.get_device_name(self.device)
        elif name == "cpu":
            name = f"cpu, {torch.get_num_threads()} threads"
        return {"partimento": partimento.__version__, "torch": str(torch.__version__), "device": name}

    def steps(self) -> dict[str, Any]:
        """How `Player.play` is to compute its steps."""
        return {"compile": self.compile, "weights": self.precision}

    def frames(self, seconds: float) -> int:
        """The nearest whole number of frames, one at least."""
        return max(1, round(seconds * self.player.spec.frame_rate))


def open_source(
    run: str | Path,
    *,
    weights: Weights = "ema",
    codec: str | None = None,
    device: str = "auto",
    compile: bool | None = None,
    precision: Precision = "full",
    step: str | None = None,
    progress: Progress,
) -> Source:
    """The best checkpoint of the run (the newest where none was validated), or the one that is named `step`. `run` is
    also a folder that `partimento weights export` wrote, which has one set of weights, or its name on the hub, where
    the local cache has it.

    `compile` None compiles the steps where that takes seconds (on a CPU with a C++ compiler) and where it is needed
    (less than full precision).

    Raises RUN001, PUB001 to PUB003 and WEIGHTS002 (an exported folder that was changed), SAMPLE032 (a run that plays no
    codes), CKPT... (nothing to play yet, damaged, without averaged weights), TRAIN005 (no such device), PACK009 (the
    codec here is not the run's), CODEC... (it cannot be opened).
    """
    where = exported.located(run)
    if playable.is_one(where):
        return _of_folder(where, codec=codec, device=device, compile=compile, precision=precision, progress=progress)
    opened = Run.open(where)
    if opened.record["family"] not in PLAYING:
        raise PartimentoError(
            "SAMPLE032",
            f"the run {opened.id} is of the family {opened.record['family']}, which does not play",
            where=str(opened.path),
            why=f"only models of codes play: the families {', '.join(PLAYING)}",
            next="partimento decode FILE lets a recording through a codec",
        )
    place = devices.pick(device)
    path = _checkpoint(opened, step, progress)
    progress.stage("load", f"{path.name} of {opened.id}, {weights} weights")
    player = Player.from_checkpoint(path, weights, place)
    named = codec or opened.record["config"]["data"].get("codec")
    return Source(
        opened.id,
        path.name,
        path,
        weights,
        _weights_sha256(path, weights),
        player,
        _codec(player, place, named),
        place,
        _compiled(compile, precision, place),
        precision,
    )


def _of_folder(
    folder: Path, *, codec: str | None, device: str, compile: bool | None, precision: Precision, progress: Progress
) -> Source:
    place = devices.pick(device)
    found = playable.read(folder)
    told = found.source
    progress.stage("load", f"{folder.name}: {told['weights']} weights of {told['run']}, {told.get('checkpoint')}")
    player = Player.from_folder(found, place)
    return Source(
        str(told["run"]),
        str(told.get("checkpoint")),
        folder,
        "raw" if told["weights"] == "raw" else "ema",
        found.sha256,
        player,
        _codec(player, place, codec),
        place,
        _compiled(compile, precision, place),
        precision,
    )


def _codec(player: Player, place: torch.device, name: str | None) -> Codec:
    return open_like(player.spec, place if place.type in ("cuda", "mps") else "cpu", name=name)


def _compiled(asked: bool | None, precision: Precision, place: torch.device) -> bool:
    if asked is None:
        return precision != "full" or (place.type == "cpu" and _compiler() is not None)
    return asked


def _compiler() -> str | None:
    """The one that torch would call."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def _checkpoint(run: Run, step: str | None, progress: Progress) -> Path:
    if step is not None:
        return run.checkpoints_path / step
    return chosen(run, progress.note)


def _weights_sha256(path: Path, weights: Weights) -> str:
    """Of the weights of a checkpoint as its manifest has it, against which they were verified when they were read. Of
    weights in several files: of their hashes, in the order of their names."""
    files = checkpoint.contents(path)["ema" if weights == "ema" else "model"]
    listed = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
    hashes = [listed[file.relative_to(path).as_posix()]["sha256"] for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

"""Trackers beside the log: TensorBoard, trackio, W&B. Which there are, and that their packages are there."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from partimento.errors import PartimentoError
from partimento.runs.run import Run
from partimento.runs.trackers.sidecar import Sidecar
from partimento.runs.trackers.to_tensorboard import TensorBoard
from partimento.runs.trackers.to_trackio import Trackio
from partimento.runs.trackers.to_wandb import Wandb
from partimento.runs.trackers.tracker import Facts, Tracker

TRACKERS = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb}
FOLDER = "trackers"


def require(names: Sequence[str]) -> None:
    """Raises RUN010 unless the packages of these trackers can be imported, before anything is trained for them."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as err:
            raise PartimentoError(
                "RUN010",
                f"the tracker {name} cannot be used: its package is not installed, or does not load",
                where="train.trackers",
                why=str(err),
                next="pip install 'partimento[trackers]'",
            ) from err


def beside(run: Run, names: Sequence[str], step: int) -> Sidecar:
    """The trackers of a training that begins at, or goes on from, `step`."""
    chosen: dict[str, tuple[Tracker, Facts]] = {
        name: (TRACKERS[name](), Facts.of(run, run.path / FOLDER / name, step)) for name in names
    }
    return Sidecar(chosen, run.path)

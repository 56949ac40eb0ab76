"""Which checkpoint of a run is used where nobody names one, and whether it has averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.run import Run, resume_command


def chosen(run: Run, note: Callable[[str], None] = lambda text: None) -> Path:
    """The best checkpoint of `run`, else the newest that verifies; `note` is told of each damaged one.

    Raises CKPT003 (nothing is saved yet), and what `checkpoint.newest` raises.
    """
    path = checkpoint.best(run.checkpoints_path) or checkpoint.newest(run.checkpoints_path, note=note)
    if path is None:
        raise PartimentoError(
            "CKPT003",
            f"the run {run.id} has no checkpoint yet",
            where=str(run.path),
            next=resume_command(run.path),
        )
    return path


def check_averages(path: Path) -> None:
    """Raises CKPT004 if the checkpoint at `path` has no averaged weights."""
    if not checkpoint.load(path, ()).state["ema_updates"]:
        raise PartimentoError(
            "CKPT004",
            f"{path.name} has no averaged weights",
            where=str(path),
            why="the run was trained with optim.ema = 0",
            next="take the raw ones: --weights raw",
        )

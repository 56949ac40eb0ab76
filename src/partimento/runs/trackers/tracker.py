"""What a tracker is: somewhere else to look at a run. Its record is events.jsonl, and a tracker is never read back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from partimento.runs.run import Run

PROJECT = "partimento"


@dataclass(frozen=True)
class Facts:
    """What a tracker is told once. `step`: what has been told of it and later steps before holds no more."""

    id: str
    unique: str
    """The id and a part of the record's hash: runs of the same id in two folders stay apart in one project."""
    folder: Path
    """Where the tracker may write, if it writes files."""
    config: Mapping[str, Any]
    hypothesis: str | None
    step: int

    @classmethod
    def of(cls, run: Run, folder: Path, step: int = 0) -> Facts:
        content = (run.path / "run.json").read_bytes()
        unique = f"{run.id}-{hashlib.sha256(content).hexdigest()[:8]}"
        return cls(run.id, unique, folder, run.record["config"], run.record.get("hypothesis"), step)


class Tracker(Protocol):
    """Calls come from one thread, in the order of the events. Whatever is raised switches the tracker off; however long
    a call takes, the training does not wait for it (`sidecar`)."""

    def open(self, facts: Facts) -> None: ...

    def figures(self, step: int, time: float, figures: Mapping[str, float]) -> None:
        """Numbers of one step by name, e.g. train/loss; all of them are finite. `time`: seconds since 1970."""

    def text(self, step: int, time: float, name: str, text: str) -> None: ...

    def sound(self, step: int, time: float, name: str, wave_NC: NDArray[np.int16], rate: int) -> None:
        """Integers, as they are in the file: some trackers scale fractions to full level, and no two could be
        compared by ear."""

    def close(self) -> None: ...

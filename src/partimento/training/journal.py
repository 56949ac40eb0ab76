"""What a training tells while it runs: events for the run, notes for who sits in front of it."""

from __future__ import annotations

from typing import Any

from partimento.progress import Progress
from partimento.runs.events import EventLog
from partimento.runs.run import Run
from partimento.training.state import State


class Journal:
    """`progress` is the display. With several ranks only the main one writes events."""

    def __init__(self, run: Run, state: State, progress: Progress) -> None:
        self.state, self.progress = state, progress
        self._log = EventLog(run.events_path) if state.parallel.main else None

    def event(self, kind: str, **values: Any) -> None:
        """Of the step that was made last."""
        self.append(kind, self.state.counters.step, **values)

    def append(self, kind: str, step: int, **values: Any) -> None:
        if self._log is not None:
            self._log.append(kind, step, **values)

    def note(self, text: str) -> None:
        self.event("note", text=text)
        self.progress.note(text)

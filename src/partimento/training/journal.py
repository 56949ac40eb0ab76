"""What a training tells while it runs: events for the run, notes for who sits in front of it."""

from __future__ import annotations

import time
from typing import Any

from partimento.progress import Progress
from partimento.runs import judged
from partimento.runs.events import EventLog
from partimento.runs.run import Run
from partimento.runs.trackers import beside
from partimento.runs.trackers.sidecar import Sidecar
from partimento.training.state import State


class Journal:
    """`progress` is the display. With several ranks only the main one writes events."""

    def __init__(self, run: Run, state: State, progress: Progress) -> None:
        self.state, self.progress = state, progress
        self.run = run
        self._log = EventLog(run.events_path) if state.parallel.main else None
        self._trackers: Sidecar | None = None

    def event(self, kind: str, **values: Any) -> None:
        """Of the step that was made last."""
        self.append(kind, self.state.counters.step, **values)

    def append(self, kind: str, step: int, **values: Any) -> None:
        if self._log is None:
            return
        event = self._log.append(kind, step, **values)
        if self._trackers is not None:
            self._trackers.put(event)
            for text in self._trackers.told():
                self._log.append("note", step, text=text)
                self.progress.note(text)

    def open_trackers(self) -> None:
        """From the step that the training goes on from; what trackers know of later ones holds no more."""
        if self._log is not None and (names := self.state.config.train.trackers):
            self._trackers = beside(self.run, names, self.state.counters.step)

    def close_trackers(self) -> list[str]:
        """Give them a bounded time. Returns what is to be told of them."""
        trackers, self._trackers = self._trackers, None
        return trackers.close() if trackers is not None else []

    def end(self, reason: str) -> None:
        """The last event; trackers hear it before they are closed."""
        if self._trackers is not None:
            step = self.state.counters.step
            self._trackers.put({"kind": "end", "step": step, "time": time.time(), "reason": reason})
            for text in self.close_trackers():
                self.note(text)
        self.event("end", reason=reason)

    def items(self, weights: str, items: judged.Items | None) -> None:
        """What every held-out item came to at this step, for comparisons; beside the log, which stays small."""
        if self._log is not None and items is not None:
            judged.write(self.run.path, self.state.counters.step, weights, items)

    def note(self, text: str) -> None:
        self.event("note", text=text)
        self.progress.note(text)

"""Trackers beside a training: a thread each, behind a queue that never makes the training wait.

What a tracker does wrong costs itself only. One that raises is switched off; of one that is slow or hangs the oldest
events are dropped and counted; at the end all of them together have a few seconds, and what is still at it is left
behind. events.jsonl has everything, and `partimento track RUN` sends it again.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from partimento.runs.events import Event
from partimento.runs.trackers.tracker import Facts, Tracker
from partimento.runs.trackers.translate import send

ROOM = 1024  # events that wait for one tracker
CLOSE_SECONDS = 10.0  # for all trackers together, at the end of a training


class Sidecar:
    """Some trackers by name. Called by the thread that trains; no call waits but `close`, and that a bounded time."""

    def __init__(self, trackers: Mapping[str, tuple[Tracker, Facts]], run: Path, room: int = ROOM) -> None:
        self._lanes = [_Lane(name, tracker, facts, run, room) for name, (tracker, facts) in trackers.items()]

    def put(self, event: Event) -> None:
        for lane in self._lanes:
            lane.put(event)

    def told(self) -> list[str]:
        """What is to be logged since the last call: a line for each tracker that was switched off."""
        return [line for lane in self._lanes if (line := lane.failure())]

    def close(self, seconds: float = CLOSE_SECONDS) -> list[str]:
        """Let the queues run empty, for so long at most. Returns what is to be logged; a second call has nothing."""
        until = time.monotonic() + seconds
        for lane in self._lanes:
            lane.finish()
        for lane in self._lanes:
            lane.join(max(0.0, until - time.monotonic()))
        lines = [line for lane in self._lanes for line in lane.farewell(seconds)]
        self._lanes = []
        return lines


class _Lane:
    """The queue and the thread of one tracker. `_changed` is never held while the tracker is at work."""

    def __init__(self, name: str, tracker: Tracker, facts: Facts, run: Path, room: int) -> None:
        self.name, self._tracker, self._facts, self._run = name, tracker, facts, run
        self._waiting: deque[Event] = deque(maxlen=room)
        self._changed = threading.Condition()
        self._finishing = self._off = False
        self._failure: str | None = None
        self._given = self._dropped = 0
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        with self._changed:
            if self._off:
                return
            self._given += 1
            self._dropped += len(self._waiting) == self._waiting.maxlen  # the oldest goes: boards show what is now
            self._waiting.append(event)
            self._changed.notify()

    def failure(self) -> str | None:
        with self._changed:
            line, self._failure = self._failure, None
            return line

    def finish(self) -> None:
        with self._changed:
            self._finishing = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def farewell(self, seconds: float) -> list[str]:
        lines = [line] if (line := self.failure()) else []
        again = f"partimento track {shlex.quote(str(self._run))} --to {self.name} sends all"
        with self._changed:
            left = len(self._waiting)
            if self._thread.is_alive():
                self._off = True
                self._waiting.clear()
                lines.append(
                    f"the tracker {self.name} was not done after {seconds:g} s and was left behind, {left} events "
                    f"waiting; {again}"
                )
            if self._dropped:
                lines.append(
                    f"the tracker {self.name} was too slow: {self._dropped} of {self._given} events were dropped; "
                    f"{again}"
                )
        return lines

    def _next(self) -> Event | None:
        """The next event; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._finishing or self._off)
            return self._waiting.popleft() if self._waiting else None

    def _work(self) -> None:
        try:
            self._tracker.open(self._facts)
            while (event := self._next()) is not None:
                send(self._tracker, event, self._run)
            self._tracker.close()
        except BaseException as err:  # a stranger's library may raise anything, also SystemExit
            with self._changed:
                lost, self._off = len(self._waiting), True
                self._waiting.clear()
                self._failure = (
                    f"the tracker {self.name} was switched off, {lost} events waiting: {type(err).__name__}: "
                    f"{str(err)[:300]}"
                )

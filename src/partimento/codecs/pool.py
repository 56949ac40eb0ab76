"""The processes of an encode: started, fed, watched, replaced.

A recording whose decoder crashes ends its process, not the job: the unit is tried again, and at the second crash at the
same recording that one is skipped with PACK015. One that does not come back is skipped with PACK016.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from partimento.codecs import worker
from partimento.codecs.inputs import Unit
from partimento.codecs.worker import Task
from partimento.errors import PartimentoError

CRASHES = 2  # at one recording, before it is skipped
READ_SECONDS = 120.0  # that decoding may take, and one more for each
READ_BYTES = 256 * 2**10
START_SECONDS = 300.0  # to import and open the codec

# No state is inherited either way. On Linux a clean server imports torch once, and its forks start in milliseconds.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    _CONTEXT.set_forkserver_preload(["partimento.codecs.worker"])

Done = Callable[[Unit, int, float], None]


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    deadline: float
    ready: bool = False
    unit: Unit | None = None
    file: int | None = None  # index of the recording that is at work


@dataclass
class Pool:
    """`run` encodes units in `jobs` processes and calls `done(unit, file index, seconds of audio)` for each recording.

    Raises what a worker raises (a full disk: SYS002), and PACK018 where a worker does not come up.
    """

    codec: str
    pack: Path
    jobs: int
    read_seconds: float = READ_SECONDS
    _workers: list[_Worker] = field(default_factory=list)
    _crashes: dict[tuple[int, int], int] = field(default_factory=dict)
    _skip: dict[int, dict[int, worker.Reject]] = field(default_factory=dict)

    def run(self, units: Sequence[Unit], done: Done) -> None:
        waiting = list(reversed(units))
        left = len(units)
        try:
            while left:
                busy = sum(1 for one in self._workers if one.unit)
                while len(self._workers) < min(self.jobs, len(waiting) + busy):
                    self._workers.append(self._start())
                for one in list(self._workers):
                    if one.ready and one.unit is None and waiting:
                        self._give(one, waiting)
                left -= self._hear(waiting, done)
        finally:
            self._stop()

    def _start(self) -> _Worker:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=worker.main, args=(theirs, self.codec, self.pack), daemon=True)
        process.start()
        theirs.close()  # else its end would not be seen here when the process ends
        return _Worker(process, ours, time.monotonic() + START_SECONDS)

    def _give(self, one: _Worker, waiting: list[Unit]) -> None:
        one.unit, one.file = waiting.pop(), None
        try:
            one.pipe.send(Task(one.unit, self._skip.get(one.unit.number, {})))
        except OSError:  # it just ended; `_hear` finds that out and gives the unit back
            one.deadline = 0.0

    def _hear(self, waiting: list[Unit], done: Done) -> int:
        """Take what the workers have to say; the number of units that were finished."""
        finished = 0
        pipes = {one.pipe: one for one in self._workers}
        for pipe in connection.wait(list(pipes), timeout=1.0):
            one = pipes[pipe]  # type: ignore[index]
            try:
                message = one.pipe.recv()
            except (EOFError, OSError):
                self._ended(one, waiting)
                continue
            finished += self._take(one, message, done)
        now = time.monotonic()
        for one in list(self._workers):
            if now > one.deadline and not one.pipe.poll():  # this process may have been slow to listen
                self._overdue(one, waiting)
        return finished

    def _take(self, one: _Worker, message: tuple[Any, ...], done: Done) -> int:
        kind, *values = message
        one.deadline = float("inf")
        if kind == "error":
            raise values[0]
        if kind == "ready":
            one.ready = True
        elif kind == "reading":
            one.file, size = values
            one.deadline = time.monotonic() + self.read_seconds + size / READ_BYTES
        elif kind == "clip":
            assert one.unit is not None
            one.file = None
            done(one.unit, *values)
        elif kind == "unit":
            one.unit = None
            return 1
        return 0

    def _ended(self, one: _Worker, waiting: list[Unit]) -> None:
        """A worker is gone: blame the recording that it was at, try its unit again."""
        one.process.join(timeout=10)
        code = one.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        self._remove(one)
        if one.unit is None or one.file is None:
            # Not at any recording: it is no recording's fault, and trying for ever would help nobody.
            place = (-1, -1)
        else:
            place = (one.unit.number, one.file)
        self._crashes[place] = self._crashes.get(place, 0) + 1
        if not one.ready or (place == (-1, -1) and self._crashes[place] > CRASHES):
            raise PartimentoError(
                "PACK018",
                f"an encode process ended ({how}) " + ("in its work" if one.ready else "before it was ready"),
                why="what it printed above says more; a machine that is out of memory ends processes too (signal 9)",
                next="try again with --jobs 1",
            )
        if one.unit is not None:
            if one.file is not None and self._crashes[place] >= CRASHES:
                self._reject(one.unit, one.file, "PACK015", f"reading or encoding it ended the process ({how})")
            waiting.append(one.unit)

    def _overdue(self, one: _Worker, waiting: list[Unit]) -> None:
        one.process.kill()
        if not one.ready:
            raise PartimentoError(
                "PACK018", f"an encode process did not start within {START_SECONDS:.0f} s", next="try --jobs 1"
            )
        self._remove(one)
        if one.unit is not None:
            if one.file is not None:
                self._reject(one.unit, one.file, "PACK016", "reading it took too long")
            waiting.append(one.unit)

    def _reject(self, unit: Unit, index: int, code: str, reason: str) -> None:
        self._skip.setdefault(unit.number, {})[index] = (code, reason)

    def _remove(self, one: _Worker) -> None:
        one.pipe.close()
        self._workers.remove(one)

    def _stop(self) -> None:
        """End all workers: the idle ones when they are told, the others at once (their units are made anew later)."""
        for one in self._workers:
            if one.unit is None and one.ready:
                try:
                    one.pipe.send(None)
                except OSError:
                    one.process.kill()
            else:
                one.process.kill()
        for one in self._workers:
            one.process.join(timeout=10)
            one.pipe.close()
        self._workers.clear()

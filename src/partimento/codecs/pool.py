"""The processes of an encode: started, fed, watched, replaced.

Decoders have processes of their own below these (hear.py), so what ends or holds up one of these is the codec: then the
unit is tried again, and at the second crash at the same recording that one is skipped with PACK015. A recording that
gets no further for too long is skipped with PACK016.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from partimento import isolated
from partimento.codecs import worker
from partimento.codecs.inputs import Unit
from partimento.codecs.worker import Setup, Task
from partimento.errors import PartimentoError

CRASHES = 2  # at one recording, before it is skipped
STEP_SECONDS = 600.0  # for one step of a recording: some seconds of it decoded and coded
START_SECONDS = 300.0  # to import and open the codec

# No state is inherited either way. On Linux a clean server imports torch and scipy once, and its forks start at once.
_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    _CONTEXT.set_forkserver_preload(["partimento.codecs.worker", "scipy.signal"])


class Listener:
    """Is told of every recording and every unit that is done."""

    def clip(self, unit: Unit, index: int, seconds: float, reject: str | None) -> None: ...

    def unit(self, unit: Unit) -> None: ...


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str
    deadline: float
    ready: bool = False
    unit: Unit | None = None
    file: int | None = None  # index of the recording that is at work


@dataclass
class Pool:
    """`run` encodes units in `jobs` processes, which take turns on the `devices`.

    A unit is taken from the iterable only when a process is free for it.
    Raises what a worker raises (a full disk: SYS002), and PACK018 where a worker does not come up.
    """

    setup: Setup
    pack: Path
    jobs: int
    devices: Sequence[str] = ("cpu",)
    step_seconds: float = STEP_SECONDS
    _workers: list[_Worker] = field(default_factory=list)
    _again: list[Unit] = field(default_factory=list)
    _crashes: dict[tuple[int, int], int] = field(default_factory=dict)
    _skip: dict[int, dict[int, worker.Reject]] = field(default_factory=dict)

    def run(self, units: Iterable[Unit], listener: Listener) -> None:
        source = iter(units)
        try:
            while True:
                while self._has_room() and (unit := self._next(source)) is not None:
                    self._give(self._free(), unit)
                if not any(one.unit for one in self._workers):
                    return
                self._hear(listener)
        finally:
            self._stop()

    def _next(self, source: Iterator[Unit]) -> Unit | None:
        return self._again.pop() if self._again else next(source, None)

    def _has_room(self) -> bool:
        return sum(1 for one in self._workers if one.unit) < self.jobs

    def _free(self) -> _Worker:
        for one in self._workers:
            if one.unit is None:
                return one
        used = [one.device for one in self._workers]
        device = min(self.devices, key=used.count)
        ours, theirs = _CONTEXT.Pipe()
        setup = replace(self.setup, device=device)
        process = _CONTEXT.Process(target=worker.main, args=(theirs, setup, self.pack), daemon=True)
        resource_tracker.ensure_running()  # starting it lets Ctrl-C through again
        with isolated.unheard_ctrl_c():
            process.start()
            theirs.close()  # else its end would not be seen here when the process ends
            self._workers.append(_Worker(process, ours, device, time.monotonic() + START_SECONDS))
        return self._workers[-1]

    def _give(self, one: _Worker, unit: Unit) -> None:
        one.unit, one.file = unit, None
        if one.ready:
            self._send(one, unit)

    def _send(self, one: _Worker, unit: Unit) -> None:
        try:
            one.pipe.send(Task(unit, self._skip.get(unit.number, {})))
            one.deadline = time.monotonic() + self.step_seconds
        except OSError:  # it just ended; `_hear` finds that out and gives the unit back
            one.deadline = 0.0

    def _hear(self, listener: Listener) -> None:
        """Take what the workers have to say."""
        pipes = {one.pipe: one for one in self._workers}
        for pipe in connection.wait(list(pipes), timeout=1.0):
            one = pipes[pipe]  # type: ignore[index]
            try:
                message = one.pipe.recv()
            except (EOFError, OSError):
                self._ended(one)
                continue
            self._take(one, message, listener)
        now = time.monotonic()
        for one in list(self._workers):
            if now > one.deadline and not one.pipe.poll():  # this process may have been slow to listen
                self._overdue(one)

    def _take(self, one: _Worker, message: tuple[Any, ...], listener: Listener) -> None:
        kind, *values = message
        if kind == "error":
            raise values[0]
        one.deadline = time.monotonic() + self.step_seconds
        unit = one.unit
        assert unit is not None
        if kind == "ready":
            one.ready = True
            self._send(one, unit)
        elif kind == "coding":
            one.file = values[0]
        elif kind == "clip":
            one.file = None
            listener.clip(unit, *values)
        elif kind == "unit":
            one.unit = None
            one.deadline = float("inf")
            listener.unit(unit)

    def _ended(self, one: _Worker) -> None:
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
                self._reject(one.unit, one.file, "PACK015", f"encoding it ended the process ({how})")
            self._again.append(one.unit)

    def _overdue(self, one: _Worker) -> None:
        one.process.kill()
        if not one.ready:
            raise PartimentoError(
                "PACK018", f"an encode process did not start within {START_SECONDS:.0f} s", next="try --jobs 1"
            )
        self._remove(one)
        if one.unit is not None:
            if one.file is not None:
                self._reject(one.unit, one.file, "PACK016", "it got no further for too long")
            self._again.append(one.unit)

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

"""Runs on this machine: a process each, so many at a time, each with its share of the cores and a GPU of its own.

A process saves and ends when it is asked to, when this one is gone, or at the end of its run; what it prints goes to a
file. One that fails leaves the others alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab.ablation.grid import Planned
from partimento.training.launch import COMMAND, REPORT

POLL_SECONDS = 0.2
HELD = "RUN003"  # another process trains the run: most likely what a killed ablation left, which still saves and ends
HELD_SECONDS = 600.0  # in which that has to end
AGAIN_SECONDS = 5.0  # between two tries


@dataclass
class _Started:
    planned: Planned
    process: subprocess.Popen[bytes]
    slot: int


@dataclass
class _Held:
    """A run that another process trains: since when, and when it is tried again (seconds of the monotonic clock)."""

    since: float
    next: float


@dataclass
class Local:
    """`jobs` processes at a time; `gpus` are the names of the devices that they share in turn (none: the CPU)."""

    root: Path
    jobs: int
    gpus: Sequence[str] = ()
    threads: int | None = None
    told: Callable[[Planned, str | None], None] = lambda planned, error: None
    note: Callable[[str], None] = lambda text: None
    failed: dict[str, str] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list)
    _held: dict[str, _Held] = field(default_factory=dict)

    def all(self, planned: Sequence[Planned], argv: Callable[[Planned], Sequence[str]]) -> None:
        """Train them all; `failed` has why one did not come to its end. One that another process still trains comes
        last, and is tried again for ten minutes. Raises SYS003 after Ctrl-C or SIGTERM, when every process has saved
        and ended."""
        waiting, free, told = list(planned), list(range(self.jobs)), 0
        running: dict[int, _Started] = {}
        with self._signals():
            while waiting or running:
                while free and not self._asked and (one := self._next(waiting)) is not None:
                    slot = free.pop(0)
                    running[slot] = _Started(one, self._start(one, argv(one), slot), slot)
                for slot, started in list(running.items()):
                    if started.process.poll() is not None:
                        del running[slot]
                        free.append(slot)
                        if self._is_held(started):
                            waiting.append(started.planned)
                        else:
                            self._ended(started)
                if len(self._asked) > told:
                    told = len(self._asked)
                    for started in running.values():
                        started.process.send_signal(signal.SIGKILL if told > 2 else signal.SIGTERM)
                if self._asked and not running:
                    break
                time.sleep(POLL_SECONDS)
        if self._asked:
            raise PartimentoError(
                "SYS003",
                f"stopped by {signal.Signals(self._asked[0]).name}; what ran has saved",
                where=str(self.root),
                next="run the same command again; finished runs are not repeated, the others go on",
            )

    def _next(self, waiting: list[Planned]) -> Planned | None:
        """Taken from those that wait; None while all of them wait for another process."""
        now = time.monotonic()
        for number, one in enumerate(waiting):
            held = self._held.get(one.name)
            if held is None or held.next <= now:
                return waiting.pop(number)
        return None

    def _is_held(self, started: _Started) -> bool:
        """Whether it ended because another process trains the run, and may be tried again."""
        name, now = started.planned.name, time.monotonic()
        report = _read(self._report(started.planned)) if started.process.returncode else None
        if self._asked or report is None or report.get("code") != HELD:
            return False
        if name not in self._held:
            self.note(f"{name} is still trained by another process; it goes on when that has ended")
        held = self._held.setdefault(name, _Held(now, now))
        held.next = now + AGAIN_SECONDS
        return now - held.since < HELD_SECONDS

    def environment(self, slot: int) -> dict[str, str]:
        """What a process in that slot gets."""
        threads = self.threads or max(1, len(os.sched_getaffinity(0)) // self.jobs)
        own = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        if self.gpus:
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return own

    def log(self, planned: Planned) -> Path:
        return self.root / "logs" / f"{planned.name}.log"

    def _report(self, planned: Planned) -> Path:
        return self.log(planned).with_suffix(".json")

    def _start(self, planned: Planned, argv: Sequence[str], slot: int) -> subprocess.Popen[bytes]:
        report = self._report(planned)
        report.unlink(missing_ok=True)
        with self.log(planned).open("ab") as log:
            # A session of its own, so that the terminal's Ctrl-C comes to us alone; our end of its standard input
            # closes when we are gone, however that came, and it saves then.
            return subprocess.Popen(
                [*COMMAND, *argv],
                env={**os.environ, **self.environment(slot), REPORT: str(report)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _ended(self, started: _Started) -> None:
        """Tell how it went; what was stopped on request has not failed."""
        status, planned = started.process.returncode, started.planned
        if started.process.stdin:
            started.process.stdin.close()
        if status == 0:
            self.told(planned, None)
            return
        report = _read(self._report(planned))
        if self._asked and (not report or report.get("code") == "SYS003"):
            return
        if report:
            why = f"{report.get('message')} ({report.get('code')})"
        elif status < 0:
            why = f"killed by {signal.Signals(-status).name}"
        else:
            why = f"ended with status {status}"
        self.failed[planned.name] = f"{why}; {self.log(planned)}"
        self.told(planned, why)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM are remembered, and go on to the processes; a third one kills them. (Elsewhere than in the
        main thread Python delivers none.)"""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: Mapping[int, Any] = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: Any) -> None:
        self._asked.append(number)


def _read(report: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # it died before it could say why
    return found if isinstance(found, dict) else None

"""The watching itself: look, draw, wait for a key."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab.watching.tail import Tail
from partimento.lab.watching.watched import Watched
from partimento.runs.events import Event
from partimento.runs.run import Run

SECONDS = 1.0  # between two looks
WIDEST = 160  # columns; further apart two charts are no longer read as one


class Watcher:
    """A run and the end of its log."""

    def __init__(self, path: str | Path) -> None:
        """Raises RUN001, RUN002."""
        self.seen = Watched(Run.open(path))
        self._tail = Tail(self.seen.run.events_path)
        self._grew: float | None = None  # by our clock; those of other machines differ from it

    def look(self) -> float:
        """Take what is new. Returns how long nothing has been, in seconds. Raises LAB090 (the log cannot be read)."""
        first = self.seen.last is None
        events = self._read()
        if self.seen.condition(0.0).state == "killed":
            events += self._read()  # it may have ended well between our two questions
        if events and not first:
            self._grew = time.monotonic()
        if self._grew is not None:
            return time.monotonic() - self._grew
        last = self.seen.last
        return max(0.0, time.time() - last["time"]) if last is not None else 0.0

    def _read(self) -> list[Event]:
        try:
            events = self._tail.read()
        except OSError as err:
            raise PartimentoError(
                "LAB090", "the log of the run cannot be read", where=str(self._tail.path), why=err.strerror
            ) from err
        if self._tail.restarted:
            self.seen.forget()
        self.seen.feed(events)
        return events


def watch(path: str | Path) -> dict[str, Any]:
    """What is known of the run at `path` now: state (new, running, stalled, silent, killed, ended), figures, alarms.

    Raises RUN001, RUN002, LAB090.
    """
    watcher = Watcher(path)
    silent_for = watcher.look()
    return watcher.seen.to_json(silent_for)


def show(path: str | Path, once: bool = False) -> None:
    """Draw the run at `path` on the terminal: one frame, or again every second until q is pressed.

    Raises RUN001, RUN002, LAB090, LAB091 (no terminal to draw on).
    """
    from rich.console import Console
    from rich.live import Live

    from partimento.lab.watching.frame import frame

    watcher = Watcher(path)
    if once:
        console = Console() if sys.stdout.isatty() else Console(width=80)
        console.print(frame(watcher.seen, watcher.look(), min(console.width, WIDEST)))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PartimentoError(
            "LAB091",
            "there is no terminal to draw on, and no keys to leave it by",
            next=f"partimento watch {path} --once",
        )
    console = Console()
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            silent_for = watcher.look()
            live.update(
                frame(watcher.seen, silent_for, min(console.width, WIDEST), console.height, keys=True), refresh=True
            )
            if _pressed(SECONDS) in ("q", "Q", "\x1b", "\x03"):
                return


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys come one by one and are not shown; the terminal is as it was afterwards."""
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield
    except KeyboardInterrupt:
        pass  # Ctrl-C leaves too; the run that is watched hears nothing of it
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _pressed(seconds: float) -> str | None:
    if select.select([sys.stdin], [], [], seconds)[0]:
        return sys.stdin.read(1) or "q"  # the terminal is gone
    return None

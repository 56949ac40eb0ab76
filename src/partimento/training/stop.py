"""Signals as requests: the loop finishes its step, saves, and says how to go on.

Ctrl-C, SIGTERM and SIGUSR2 (what Slurm sends before it takes a node away) ask it to save and end, SIGUSR1 to save and
go on.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Stop:
    """`with Stop() as stop:` collects the signals; `stop.requested` names the one that asked for the end, `stop.save`
    is set by SIGUSR1.

    The second Ctrl-C, and any signal that asks for the end inside `at_once()`, raises KeyboardInterrupt. Outside the
    main thread Python delivers no signals, so there nothing is installed and nothing is ever requested.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self.save = False
        self._immediate = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (*ENDING, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.save = True
            return
        again = self.requested is not None
        self.requested = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # Slurm signals the launcher and the ranks, and the launcher passes it on: only a second Ctrl-C is impatience.
        if self._immediate or (again and number == signal.SIGINT):
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that may be dropped at any point, because everything before it is saved."""
        if self.requested:
            raise KeyboardInterrupt
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

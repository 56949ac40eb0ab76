"""How long work tells what it is doing, without knowing who listens (a terminal, a log, nobody)."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def stage(self, name: str, why: str = "") -> None:
        """A new part of the work begins; `why` is one plain sentence for the person who waits."""

    def update(self, done: float, total: float, **facts: str | float | int) -> None:
        """How far the stage is, with a few facts to show beside the bar."""

    def note(self, text: str) -> None:
        """Something the person should read, e.g. a checkpoint that had to be skipped."""


class Quiet:
    """Nobody listens."""

    def stage(self, name: str, why: str = "") -> None: ...

    def update(self, done: float, total: float, **facts: str | float | int) -> None: ...

    def note(self, text: str) -> None: ...

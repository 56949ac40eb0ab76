"""What an explanation of a loss consists of: plain data, which the terminal, the report and --json show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from partimento.runs.events import plain

Cell = str | float | int | None


@dataclass(frozen=True)
class Part:
    """Paragraphs, then perhaps a table; a cell that is None was not recorded."""

    title: str
    prose: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()


@dataclass(frozen=True)
class Explained:
    """`verdict` is three lines; `good` is None where it is too early, or nobody can say. `figures` are the numbers
    behind the prose (see `floors.Standing`, `sound.Composed`), `missing` what the run did not record."""

    run: str
    family: str
    step: int | None
    verdict: tuple[str, str, str]
    good: bool | None
    young: str | None
    parts: Sequence[Part]
    figures: dict[str, Any] = field(default_factory=dict)
    missing: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        parts = [
            {"title": part.title, "prose": list(part.prose), "head": list(part.head), "rows": [*map(list, part.rows)]}
            for part in self.parts
        ]
        found: dict[str, Any] = plain(
            {
                "run": self.run,
                "family": self.family,
                "step": self.step,
                "verdict": list(self.verdict),
                "good": self.good,
                "young": self.young,
                "figures": self.figures,
                "parts": parts,
                "missing": list(self.missing),
            }
        )
        return found


def text(cell: Cell) -> str:
    """A cell for people: a dash was not recorded."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}" if abs(cell) >= 100 else f"{cell:.3f}"


def percent(share: float | None, digits: int = 0) -> str | None:
    return None if share is None else f"{round(100 * share, digits) + 0.0:,.{digits}f} %"  # no "-0 %"


def amount(number: float) -> str:
    """A large count for reading: 334.0 M, 12,345."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(number) >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,.0f}"

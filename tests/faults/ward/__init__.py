"""The fault library of the doctor: small real trainings with one thing spoilt, and healthy ones beside them.

`planted()` and `healthy()` import their modules when they are asked, so that each module can be used alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

LEVELS = ("log", "weights", "data", "samples")


@dataclass(frozen=True)
class Planted:
    """`make(folder)` trains below `folder`, which is empty, and returns what `doctor` is given: a path, or two."""

    disease: str
    level: str
    how: str
    """One sentence: what was spoilt."""
    make: Callable[[Path], Path | tuple[Path, Path]]
    also: tuple[str, ...] = ()
    """Diseases that are there too, and may stand before it."""
    slow: bool = False

    @property
    def name(self) -> str:
        """Unique among the planted faults of its level."""
        return f"{self.disease}-{self.make.__name__}"


@dataclass(frozen=True)
class Healthy:
    """Nothing in what `make` trained is to be called a disease."""

    name: str
    how: str
    make: Callable[[Path], Path]
    slow: bool = False


def planted() -> tuple[Planted, ...]:
    return tuple(one for name in ("logs", *LEVELS[1:]) for one in import_module(f"ward.{name}").PLANTED)


def healthy() -> tuple[Healthy, ...]:
    return tuple(import_module("ward.healthy").HEALTHY)

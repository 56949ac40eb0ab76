"""What an examiner returns, and the words of every disease (`diseases.toml`, their one owner)."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

LIKELY = 0.5
"""A finding of this confidence or more is a diagnosis; a weaker one is a remark."""


@dataclass(frozen=True)
class Evidence:
    """One sentence with its figures, and a drawing of them as SVG (`lab.charts`) or None."""

    text: str
    chart: str | None = None


@dataclass(frozen=True)
class Finding:
    """`disease` is an id of diseases.toml, `confidence` in [0, 1], `where` a step, a tensor, a book or a file."""

    disease: str
    confidence: float
    evidence: tuple[Evidence, ...]
    where: str | None = None

    def __post_init__(self) -> None:
        if self.disease not in diseases():
            raise KeyError(f"{self.disease} is not in diseases.toml")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"a confidence of {self.confidence}")


@dataclass(frozen=True)
class Examined:
    """What one examiner saw. `fine` and `missing` are sentences: what was looked at and is well, and what could not be
    looked at and why."""

    findings: tuple[Finding, ...] = ()
    fine: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Disease:
    """The words of a disease.

    `what` says in two sentences what it is, `looks_like_if_wrong` what healthy thing looks the same, `change` is the
    one change to try first, `rule` when it is named, `hides` are the diseases that are only its consequences when both
    are found. `source` are places to read more: "training.md" (a page of docs/), or "who and what: address".
    """

    id: str
    name: str
    level: tuple[str, ...]
    what: str
    looks_like_if_wrong: str
    change: str
    rule: str
    source: tuple[str, ...]
    hides: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        """Below the repository."""
        return f"docs/doctor/{self.id}.md"


LEVELS = ("weights", "log", "data", "samples")


@functools.cache
def diseases() -> Mapping[str, Disease]:
    """All diseases by id. Raises ValueError where diseases.toml is not what it should be (a test reads it)."""
    text = (resources.files("partimento.lab.doctor") / "diseases.toml").read_text(encoding="utf-8")
    found = {}
    for name, told in tomllib.loads(text).items():
        entry = {"hides": (), **told}
        try:
            level, source, hides = (tuple(entry.pop(key)) for key in ("level", "source", "hides"))
            found[name] = Disease(id=name, level=level, source=source, hides=hides, **entry)
        except (KeyError, TypeError) as err:
            raise ValueError(f"diseases.toml, {name}: {err}") from err
        if unknown := sorted(set(level) - set(LEVELS)):
            raise ValueError(f"diseases.toml, {name}: there is no level {unknown[0]!r}")
    for one in found.values():
        if unknown := sorted(set(one.hides) - found.keys()):
            raise ValueError(f"diseases.toml, {one.id}: it hides {unknown[0]!r}, which is not there")
    return MappingProxyType(found)

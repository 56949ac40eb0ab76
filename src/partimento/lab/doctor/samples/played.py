"""The newest demos of a run, sorted by how they were played, beside the figures of held-out windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.lab.doctor.patient import Patient
from partimento.runs.demos import Sheet

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Way:
    """Items that were played by the same weights at the same temperature and guidance, all told something or nothing.
    Figures are means over the items, None where no item has one."""

    weights: str
    temperature: float
    guidance: float
    told: bool
    items: tuple[Item, ...]

    def figure(self, name: str) -> float | None:
        """`name` in "entropy", "coverage", "repetition" (means over the books), "silence", "peak"."""
        return _mean([_of(item, name) for item in self.items])

    def by_book(self, name: str) -> list[float] | None:
        lists = [item["metrics"].get(f"{name}_K") for item in self.items]
        known = [values for values in lists if values and None not in values]
        return [sum(column) / len(column) for column in zip(*known, strict=True)] if known else None

    @property
    def frames(self) -> float | None:
        """That were played, the mean."""
        return _mean([_number(item.get("frames")) for item in self.items])

    @property
    def label(self) -> str:
        return f"temperature {self.temperature:g}, guidance {self.guidance:g}, {self.weights} weights"


@dataclass(frozen=True)
class Demos:
    """`ways` from the coldest; `data` are the figures of held-out windows of the same length, None if not recorded."""

    folder: Path
    sheet: Sheet
    ways: tuple[Way, ...]
    data: Mapping[str, Any] | None

    @property
    def step(self) -> str:
        return "the newest demos" if self.sheet.step is None else f"the demos of step {self.sheet.step:,}"

    @property
    def ladder(self) -> list[Way]:
        """One way for each temperature, from the coldest: the averaged weights (where there are any), the guidance next
        to none."""
        weights = "ema" if any(way.weights == "ema" for way in self.ways) else "raw"
        found: dict[float, Way] = {}
        for way in self.ways:
            if way.weights != weights:
                continue
            known = found.get(way.temperature)
            if known is None or abs(way.guidance - 1) < abs(known.guidance - 1):
                found[way.temperature] = way
        return [found[temperature] for temperature in sorted(found)]

    @property
    def usual(self) -> Way:
        """Temperature 1, or the highest that was played."""
        return next((way for way in self.ladder if way.temperature == 1), self.ladder[-1])

    def of_data(self, name: str) -> float | None:
        return _number((self.data or {}).get(name))


def newest(patient: Patient) -> Demos | None:
    """None of a run that has played nothing from nothing (a codec or a restorer only makes sound of sound)."""
    for folder, sheet in reversed(patient.sheets):
        ways = _ways(sheet)
        if ways:
            return Demos(folder, sheet, ways, sheet.data)
    return None


def _ways(sheet: Sheet) -> tuple[Way, ...]:
    groups: dict[tuple[float, float, str, bool], list[Item]] = {}
    for item in sheet.items:
        words = item.get("words") or {}
        if item.get("kind", "played") != "played" or not isinstance(item.get("metrics"), Mapping):
            continue
        temperature, guidance = _number(item.get("temperature")), _number(item.get("guidance"))
        if temperature is None or guidance is None:
            continue
        told = isinstance(words, Mapping) and bool(words.get("tags") or words.get("text"))
        key = temperature, guidance, str(item.get("weights")), told
        groups.setdefault(key, []).append(item)
    return tuple(
        Way(weights, temperature, guidance, told, tuple(items))
        for (temperature, guidance, weights, told), items in sorted(groups.items(), key=lambda group: group[0])
    )


def _of(item: Item, name: str) -> float | None:
    metrics = item["metrics"]
    if name in ("silence", "peak"):
        return _number(metrics.get(name))
    return _mean([_number(value) for value in metrics.get(f"{name}_K") or []])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)

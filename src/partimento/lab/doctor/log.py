"""The log of a run as curves: what is in force after rollbacks and resumes, and where the level may jump by plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from partimento.config import Config, SoundConfig
from partimento.lab.doctor.robust import Curve
from partimento.runs.checkpoint import figure
from partimento.runs.events import Event
from partimento.training.stages import stages


@dataclass(frozen=True)
class Series:
    """Readings that are finite, in order of steps. `x` are steps, both float64 [N]."""

    x: Curve
    y: Curve

    def __len__(self) -> int:
        return len(self.x)

    def between(self, begin: float, end: float = math.inf) -> Series:
        """Readings of steps in (begin, end]: a line of the log is of the steps up to its own."""
        here = (self.x > begin) & (self.x <= end)
        return Series(self.x[here], self.y[here])


class Log:
    """Of a line that a rollback or a resume has written again, the later one counts; lines of a future that was given
    up do not."""

    def __init__(self, events: Sequence[Event], config: Config | None) -> None:
        self.events, self.config = list(events), config
        self.train = self._in_force("train")
        self.rollbacks = [event for event in events if event["kind"] == "rollback"]
        self.ended = next((e for e in reversed(self.events) if e["kind"] in ("end", "resume")), None)

    def valid(self, weights: str) -> list[Event]:
        """Validations of "ema" or "raw" weights, one a step."""
        return self._in_force("valid", weights=weights)

    @property
    def weights(self) -> str:
        """Whose validations are judged: the averaged weights', where there are any."""
        return "ema" if self.valid("ema") else "raw"

    @property
    def step(self) -> int:
        return int(self.train[-1]["step"]) if self.train else 0

    def series(self, name: str) -> Series:
        """A figure of the training lines; dots lead into lists ("ce_K.0"), and "ce" is the mean of ce_K."""
        return series(self.train, name)

    @property
    def loss(self) -> tuple[str, Series]:
        """What is watched of the training, and its name: the plain cross entropy of codes, the mel distance of sound
        (the loss of a generator rises as its adversary learns), or the loss where the log has no other."""
        for name in ("mel7", "ce"):
            found = self.series(name)
            if len(found) and len(found) >= 0.9 * len(self.series("loss")):
                return {"mel7": "mel distance", "ce": "loss"}[name], found
        return "loss", self.series("loss")

    @property
    def begins(self) -> list[int]:
        """Steps at which the level may jump by plan: 0, the stages, the begin of an adversary."""
        if self.config is None:
            return [0]
        found = {stage.start for stage in stages(self.config)}
        if isinstance(self.config, SoundConfig) and self.config.adversary.start is not None:
            found.add(self.config.adversary.start)
        return sorted(found)

    def segments(self, of: Series) -> list[Series]:
        """Parts between `begins` that have readings."""
        ends = [*self.begins[1:], math.inf]
        parts = [of.between(begin, end) for begin, end in zip(self.begins, ends, strict=True)]
        return [part for part in parts if len(part)]

    def _in_force(self, kind: str, **where: Any) -> list[Event]:
        found: dict[int, Event] = {}
        for event in self.events:
            if event["kind"] in ("resume", "rollback"):
                found = {step: one for step, one in found.items() if step <= event["step"]}
            elif event["kind"] == kind and all(event.get(name) == want for name, want in where.items()):
                found[event["step"]] = event
        return [found[step] for step in sorted(found)]


def series(events: Sequence[Event], name: str) -> Series:
    """See `Log.series`."""
    points = [(event["step"], value) for event in events if (value := _value(event, name)) is not None]
    x, y = (np.array([point[place] for point in points], dtype=np.float64) for place in (0, 1))
    return Series(x, y)


def _value(event: Event, name: str) -> float | None:
    if name == "ce":
        books = event.get("ce_K") or [None]
        return None if None in books else fmean(books)
    value = figure(event, name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

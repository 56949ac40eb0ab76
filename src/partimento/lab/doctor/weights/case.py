"""What the examiners of weights are given: one checkpoint, those before it, and a profile of each of its weights."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from partimento.config import Config
from partimento.errors import PartimentoError
from partimento.lab import charts
from partimento.lab.charts import Level, Line
from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import LIKELY
from partimento.lab.doctor.patient import Patient, Snapshot
from partimento.lab.doctor.weights import profile, rows
from partimento.lab.doctor.weights.expected import Starts
from partimento.lab.doctor.weights.profile import Profile
from partimento.lab.doctor.weights.rates import Course

EARLIER = 2
"""Checkpoints before the newest that are compared with it, beside the oldest that is there."""
NAMED = 4
NAMES = 28  # of weights, that a drawing has room for


@dataclass
class Case:
    """`earlier` are from the oldest to the newest, all before `snapshot`. `course` is None where the configuration
    cannot be read. `broken` says why a part could not be read."""

    patient: Patient
    snapshot: Snapshot
    earlier: list[Snapshot]
    config: Config | None
    course: Course | None
    starts: Starts
    betas: tuple[float, float]
    weights: list[Profile] = field(default_factory=list)
    rival: list[Profile] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def state(self) -> Mapping[str, Any]:
        assert self.snapshot.state is not None
        return self.snapshot.state

    @property
    def sound(self) -> list[Profile]:
        """The weights whose numbers are all finite, in every part."""
        return [one for one in self.weights if not one.bad]

    @property
    def matrices(self) -> list[Profile]:
        """The hidden matrices that are trained."""
        return [one for one in self.sound if one.matrix and one.trained]


def gather(patient: Patient, snapshot: Snapshot, earlier: Sequence[Snapshot]) -> Case:
    """Reads everything, each tensor once."""
    assert snapshot.state is not None
    config, raw = patient.config, patient.raw
    described = snapshot.state.get("description") or {}
    starts = Starts(raw, described)
    told = (raw.get("optim") or {}).get("betas") or (0.9, 0.95)
    betas = (float(told[0]), float(told[1])) if config is None else (config.optim.betas[0], config.optim.betas[1])
    course = None if config is None else Course(config, snapshot.state)
    case = Case(patient, snapshot, list(earlier), config, course, starts, betas)
    shapes = _shapes(case, "model")
    known = {name: start for name, shape in shapes.items() if (start := starts.of(name, shape)) is not None}
    begins = {name: start.mean for name, start in known.items() if not start.std}
    tables = rows.layouts(described)
    for player, into in (("", case.weights), ("adversary", case.rival)):
        theirs = getattr(config, "adversary", None)
        own = (theirs.betas[0], theirs.betas[1]) if player and theirs is not None and theirs.betas else betas
        try:
            into.extend(profile.profiles(snapshot, earlier, tables=tables, begins=begins, betas=own, player=player))
        except PartimentoError as err:
            case.broken.append(f"{err.message} ({err.why})" if err.why else err.message)
    return case


def _shapes(case: Case, part: str) -> Mapping[str, tuple[int, ...]]:
    found = case.snapshot.part(part)
    try:
        return {} if found is None else found.shapes
    except PartimentoError:
        return {}  # said when it is read


def named(names: Iterable[str]) -> str:
    """Tensors in few words: "blocks.*.attention.qkv.weight (4), head.weight and 3 more"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\.\d+(?=\.|$)", ".*", name), []).append(name)
    told = [f"{key} ({len(members)})" if len(members) > 1 else members[0] for key, members in groups.items()]
    rest = len(told) - NAMED
    return ", ".join(told[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def graded(value: float, points: Sequence[tuple[float, float]]) -> float:
    """A confidence: straight lines between points (value, confidence), in any order; flat outside."""
    ordered = sorted(points)
    if value <= ordered[0][0]:
        return ordered[0][1]
    for (low, left), (high, right) in itertools.pairwise(ordered):
        if value <= high:
            return left + (right - left) * (value - low) / (high - low)
    return ordered[-1][1]


def by_weight(
    name: str,
    values: Sequence[tuple[str, float]],
    confidence: float,
    *,
    what: str,
    level: tuple[str, float] | None = None,
) -> str | None:
    """One value a weight, beside what is usual: with the names of the weights of a small model, in the order of a large
    one. None for a mere remark, or a single weight."""
    if confidence < LIKELY or len(values) < 2:
        return None
    if len(values) <= NAMES:
        named_values = [(one.removesuffix(".weight"), value) for one, value in values]
        return pictures.dots(what, named_values, level)
    line = Line("", list(range(1, len(values) + 1)), [value for _, value in values], charts.BLUE)
    return charts.line_chart(
        f"doctor-{name}", [line], y_label=what, x_label="weights, in the order of the model",
        levels=[] if level is None else [Level(*level, charts.VERMILION)], log_y=True, height=2.0,
    )  # fmt: skip

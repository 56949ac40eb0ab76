"""Rows of tables, each made anew from the flat list of records, so that no table holds what belongs to another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from partimento.lab.restored.artifacts import ARTIFACTS
from partimento.lab.restored.intervals import Interval, paired_bootstrap
from partimento.lab.restored.judge import Record
from partimento.lab.restored.metrics import Metric

EVERY = "all"  # the set of all kinds


@dataclass(frozen=True)
class Spread:
    """Over the sources (a source's clips are averaged first)."""

    mean: float
    median: float


@dataclass(frozen=True)
class Row:
    """One figure of one protocol, set and shift (None: all but 0, averaged in each source).

    `difference` is output - input, of the same pieces; `better` the share of sources whose output is better than their
    input; `improves` whether the whole interval is on the better side of zero (False: on the worse side, None: it holds
    zero); `undefined` how many of the `pieces` have no such figure, on either side, and are in none of this.
    """

    protocol: str
    set: str
    semitones: float | None
    metric: str
    input: Spread
    output: Spread
    identity: Spread
    subtraction: Spread
    difference: Interval
    better: float
    improves: bool | None
    pieces: int
    undefined: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Counted:
    """How often a fault was found of `of` pieces in which it is defined, and the median of its figure."""

    protocol: str
    artifact: str
    input: int
    output: int
    of: int
    input_median: float | None
    output_median: float | None
    worst: str  # the piece with the highest figure of the output

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rows(records: Sequence[Record], metrics: Sequence[Metric]) -> list[Row]:
    """Every protocol, set (all, then each kind where there are several), shift (all, then each) and metric."""
    kinds = sorted({record.kind for record in records})
    made = []
    for protocol in _in_order(record.protocol for record in records):
        for name in (EVERY, *(kinds if len(kinds) > 1 else ())):
            chosen = [r for r in records if r.protocol == protocol and name in (EVERY, r.kind)]
            shifts = sorted({record.semitones for record in chosen})
            for semitones in (*([None] if any(shifts) else []), *shifts):
                of = [r for r in chosen if (r.semitones != 0 if semitones is None else r.semitones == semitones)]
                made += [row for metric in metrics if (row := _row(of, protocol, name, semitones, metric)) is not None]
    return made


def _row(records: Sequence[Record], protocol: str, name: str, semitones: float | None, metric: Metric) -> Row | None:
    """None where the figure is undefined for all pieces."""
    cases: defaultdict[int, dict[str, Record]] = defaultdict(dict)
    for record in records:
        cases[record.case][record.who] = record
    whole = [
        case for case in cases.values() if all(record.figures.get(metric.name) is not None for record in case.values())
    ]
    if not whole:
        return None
    columns: dict[str, defaultdict[str, list[float]]] = {
        who: defaultdict(list) for who in ("input", "output", "identity", "subtraction", "difference")
    }
    for case in whole:
        values: dict[str, float] = {who: float(record.figures[metric.name] or 0.0) for who, record in case.items()}
        group = case["input"].group
        for who, value in values.items():
            columns[who][group].append(value)
        columns["difference"][group].append(values["output"] - values["input"])
    sign = -1 if metric.better == "lower" else 1
    gains = [sign * float(np.mean(values)) for values in columns["difference"].values()]
    difference = paired_bootstrap(columns["difference"])
    return Row(
        protocol=protocol,
        set=name,
        semitones=semitones,
        metric=metric.name,
        input=_spread(columns["input"]),
        output=_spread(columns["output"]),
        identity=_spread(columns["identity"]),
        subtraction=_spread(columns["subtraction"]),
        difference=difference,
        better=float(np.mean([gain > 0 for gain in gains])),
        improves=sign * difference.mean > 0 if difference.excludes_zero else None,
        pieces=len(cases),
        undefined=len(cases) - len(whole),
    )


def _spread(values_by_source: Mapping[str, list[float]]) -> Spread:
    means = [float(np.mean(values)) for values in values_by_source.values()]
    return Spread(float(np.mean(means)), float(np.median(means)))


def artifacts(records: Sequence[Record]) -> list[Counted]:
    """Faults of what came in and what went out, for each protocol."""
    made = []
    for protocol in _in_order(record.protocol for record in records):
        for artifact in ARTIFACTS:
            values: dict[str, list[tuple[float, Record]]] = {"input": [], "output": []}
            for record in records:
                if record.protocol == protocol and record.faults is not None:
                    value = record.faults.figures[artifact.name]
                    if value is not None:
                        values[record.who].append((value, record))
            came, went = values["input"], values["output"]
            worst = max(went, key=lambda pair: pair[0], default=None)
            made.append(
                Counted(
                    protocol,
                    artifact.name,
                    sum(value > artifact.threshold for value, _ in came),
                    sum(value > artifact.threshold for value, _ in went),
                    len(went),
                    _median(came),
                    _median(went),
                    "" if worst is None else f"{worst[1].source} {worst[1].semitones:+g}",
                )
            )
    return made


def _median(values: Sequence[tuple[float, Record]]) -> float | None:
    return float(np.median([value for value, _ in values])) if values else None


def find(rows: Iterable[Row], protocol: str, metric: str, name: str = EVERY) -> list[Row]:
    """The rows of one figure, by shift, the one of all shifts first."""
    return [row for row in rows if (row.protocol, row.metric, row.set) == (protocol, metric, name)]


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))

"""What experts were taken from another model, as a table for people: the one that plan, preflight, report and inspect
show.

It is made from plain data alone, the event "experts" of a run, which is also in the description of its player:

    folder, sha256    of the model that was taken from
    report            `models.transplant.Transplant.to_json`: source, its layers, rule, a row a tensor, layers not used
    replaced          how many of the tensors were trained since, where a training begins with them (`model.weights`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

HEAD = ("layers", "tensor", "shape", "numbers", "from")


@dataclass(frozen=True)
class Table:
    """`summary` is one sentence, `prose` what else is to be known, `rows` belong under HEAD."""

    summary: str
    prose: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def lines(self) -> list[str]:
        """All but the summary, for a terminal."""
        cells = [HEAD, *self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return [*self.prose, *table]


def table(told: Mapping[str, Any]) -> Table:
    """Of an event "experts". Layers whose rows are alike share one."""
    report, rows = told["report"], told["report"]["rows"]
    taken = [row for row in rows if row["origin"] is not None]
    numbers, all_numbers = (sum(prod(row["shape"]) for row in some) for some in (taken, rows))
    share = f"{_number(numbers)} of {_number(all_numbers)} numbers"
    summary = f"{len(taken)} of {len(rows)} tensors of the experts ({share}) are those of {report['source']}"
    if unused := report["unused"]:
        number, verb = ("layers", "are") if len(unused) > 1 else ("layer", "is")
        summary += f"; its {number} {_span(unused)} of {report['layers']} {verb} not used"
    where = f"source: {told['folder']}" + (f", sha256 {told['sha256'][:12]}..." if told["sha256"] else "")
    prose = [where, f"rule: {report['rule']}"]
    if told["replaced"]:
        prose.append(f"{told['replaced']} of these tensors were trained before: they are those of model.weights now")
    return Table(summary, tuple(prose), tuple(_grouped(rows)))


def _grouped(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Tensor by tensor in the order of the first layer, its layers together as far as they are alike."""
    parts = list(dict.fromkeys(_place(row["name"])[1] for row in rows))
    for part in parts:
        own = [row for row in rows if _place(row["name"])[1] == part]
        for _, same in groupby(enumerate(own), key=lambda entry: _kind(*entry)):
            alike = [row for _, row in same]
            first, shape = alike[0], " x ".join(map(str, alike[0]["shape"]))
            origin = first["why"]
            if first["origin"] is not None:
                origin = _place(first["origin"])[1].format(_span([_place(row["origin"])[0] for row in alike]))
            layers, tensor = _span([row["layer"] for row in alike]), part.partition("{}.")[2].removesuffix(".weight")
            yield layers, tensor, shape, _number(sum(prod(row["shape"]) for row in alike)), origin


def _kind(number: int, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What neighbours share that are one row of the table: their layers follow each other, here and there."""
    layer = row["layer"]
    origin: tuple[Any, ...] = ()
    if row["origin"] is not None:
        there, name = _place(row["origin"])
        origin = (there - layer, name)
    return layer - number, tuple(row["shape"]), row["why"], *origin


def _place(name: str) -> tuple[int, str]:
    """The number of its layer, and the name with {} in place of it: layers.3.fc1.weight."""
    found = re.fullmatch(r"(.*?\.)(\d+)(\..*)", name)
    if found is None:
        raise ValueError(f"{name!r} names no layer")
    return int(found[2]), f"{found[1]}{{}}{found[3]}"


def _span(layers: Sequence[int]) -> str:
    """0-15; numbers that do not follow each other one by one."""
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def _number(value: int) -> str:
    return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value:,}"

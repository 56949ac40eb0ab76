"""`rank`: checkpoints over runs by any figure that was recorded, and which of the first ones cannot be told apart."""

from __future__ import annotations

import csv as tables
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab.compared.cells import Cell, One, cells, read_runs
from partimento.lab.compared.figures import HIGHER_IS_BETTER
from partimento.lab.compared.pairs import by_source, who_was_judged
from partimento.lab.compared.statistics import mean_and_half
from partimento.lab.restored.intervals import Interval, difference_over_seeds, paired_bootstrap
from partimento.runs import checkpoint, judged
from partimento.runs.events import Event, read_events
from partimento.runs.judged import Judged


@dataclass(frozen=True)
class Place:
    """The checkpoints of one step of all seeds of a cell. `half` of the 95 % interval of `value` over the seeds, None
    of a single one. `behind`: how far it is behind the first, with its interval; None where that is not known, and of
    the first. `tied`: it cannot be told from the first (None: not known)."""

    cell: str
    step: int
    checkpoints: list[Path]
    value: float
    half: float | None
    behind: Interval | None = None
    tied: bool | None = None

    def to_json(self) -> dict[str, Any]:
        interval = self.behind.to_json() if self.behind is not None else None
        return {**asdict(self), "checkpoints": [str(path) for path in self.checkpoints], "behind": interval}


@dataclass(frozen=True)
class Ranking:
    """From the best; `sentence` says how sure the first place is."""

    metric: str
    highest: bool
    places: list[Place]
    sentence: str
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        own = {"metric": self.metric, "highest": self.highest, "sentence": self.sentence, "notes": self.notes}
        return {**own, "places": [place.to_json() for place in self.places]}


def rank(
    runs: Sequence[str | Path], *, metric: str | None = None, highest: bool | None = None, csv: str | Path | None = None
) -> Ranking:
    """Rank the checkpoints that are there by `metric`: a figure of their validation (the family's score by default;
    dots lead into lists: ce_K.0), `train.NAME` of the log's line at that step, or `demo.NAME` of the demos there.

    The lowest is first, but of SI-SDR, or with `highest`. Runs that differ in the seed alone are one place a step.
    Raises LAB070, LAB071, LAB078 (no checkpoint has the figure), RUN001, RUN002, SYS002.
    """
    notes: list[str] = []
    grouped = cells(read_runs(runs, notes.append), notes.append)
    score = grouped[0].first.figures.score
    name = metric or score
    upwards = highest if highest is not None else name.rpartition(".")[2] in HIGHER_IS_BETTER
    places, seen = [], set()
    for cell in grouped:
        found, names = _of_cell(cell, name)
        places += found
        seen |= names
    if not places:
        raise PartimentoError(
            "LAB078",
            f"no checkpoint has the figure {name!r}",
            why=f"there are {', '.join(sorted(seen)[:12])}" if seen else "no checkpoint was validated",
            next="partimento rank RUN --metric " + (min(seen) if seen else score),
        )
    places.sort(key=lambda place: (-place.value if upwards else place.value, place.cell, place.step))
    by_name = {cell.name: cell for cell in grouped}
    told = [places[0], *(_behind(places[0], place, by_name, name, upwards) for place in places[1:])]
    made = Ranking(name, upwards, told, _sentence(told, len(grouped)), notes)
    if csv is not None:
        commit.text(Path(csv), table(made))
    return made


def _of_cell(cell: Cell, name: str) -> tuple[list[Place], set[str]]:
    steps: dict[int, list[tuple[Path, float]]] = {}
    seen: set[str] = set()
    for seed in sorted(cell.runs):
        one = cell.runs[seed]
        events = read_events(one.run.events_path) if name.startswith(("train.", "demo.")) else []
        for path, state in checkpoint.readable(one.run.checkpoints_path):
            figures = state.get("figures") or {}
            seen |= {key for key, value in figures.items() if isinstance(value, int | float)}
            value = _value(name, figures, events, int(state["step"]), one)
            if value is not None:
                steps.setdefault(int(state["step"]), []).append((path, value))
    return [_place(cell, step, found) for step, found in sorted(steps.items())], seen


def _place(cell: Cell, step: int, found: Sequence[tuple[Path, float]]) -> Place:
    mean, half = mean_and_half([value for _, value in found])
    return Place(cell.name, step, [path for path, _ in found], mean, half)


def _value(name: str, figures: Any, events: Sequence[Event], step: int, one: One) -> float | None:
    value: Any
    if name.startswith("train."):
        value = _last(events, lambda event: event["kind"] == "train" and event["step"] == step, name[6:])
    elif name.startswith("demo."):
        weights = one.figures.weights
        value = _last(
            events,
            lambda event: event["kind"] == "demo_figures" and event["step"] == step and event.get("weights") == weights,
            name[5:],
        )
    else:
        value = checkpoint.figure(figures, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _last(events: Sequence[Event], fits: Callable[[Event], bool], name: str) -> Any:
    return next((event.get(name) for event in reversed(events) if fits(event)), None)


def _behind(first: Place, place: Place, by_name: dict[str, Cell], name: str, upwards: bool) -> Place:
    """On the same clips where those of both were kept; else by the seeds of both."""
    interval = _on_clips(first, place, by_name, name)
    if interval is None:
        return place
    sign = -1.0 if upwards else 1.0
    ends = sorted(sign * end for end in (interval.low, interval.high) if end is not None)
    low, high = ends if ends else (None, None)
    turned = Interval(sign * interval.mean, low, high, interval.n, interval.seeds)
    tied = None if low is None else not turned.excludes_zero
    return Place(place.cell, place.step, place.checkpoints, place.value, place.half, turned, tied)


def _on_clips(first: Place, place: Place, by_name: dict[str, Cell], name: str) -> Interval | None:
    sides = [_items(one, by_name[one.cell], name) for one in (first, place)]
    if any(not side for side in sides):
        return None
    if len({who_was_judged(found.items) for side in sides for found in side.values()}) > 1:
        return None
    one, two = ({str(seed): by_source(found.items, name) for seed, found in side.items()} for side in sides)
    shared = sorted(set(one) & set(two))
    if shared:
        one, two = ({seed: side[seed] for seed in shared} for side in (one, two))
    if min(len(one), len(two)) > 1:
        return difference_over_seeds(one, two)
    (a,), (b,) = ([side[min(side)]] for side in (one, two))
    common = sorted(set(a) & set(b))
    means = {source: [sum(b[source]) / len(b[source]) - sum(a[source]) / len(a[source])] for source in common}
    return paired_bootstrap(means) if means else None


def _items(place: Place, cell: Cell, name: str) -> dict[int, Judged]:
    """Seed -> what was kept of single clips at that step; {} where one of them has not that figure."""
    found = {}
    ids = {path.parent.parent.resolve() for path in place.checkpoints}
    for seed, one in cell.runs.items():
        if one.run.path.resolve() not in ids:
            continue
        path = judged.steps(one.run.path).get(place.step)
        if path is None:
            return {}
        try:
            kept = judged.read(path)
        except PartimentoError:
            return {}
        if name not in kept.items.values or None in kept.items.values[name]:
            return {}
        found[seed] = kept
    return found


def _sentence(places: Sequence[Place], cells_: int) -> str:
    first = places[0]
    title = f"{first.cell}, step {first.step:,}" if cells_ > 1 else f"step {first.step:,}"
    if len(places) == 1:
        return f"{title} is the only checkpoint with that figure"
    tied = [place for place in places[1:] if place.tied]
    unknown = [place for place in places[1:] if place.tied is None]
    if tied:
        rest = "the next one" if len(tied) == 1 else f"{len(tied)} others"
        text = f"{title} is first, but cannot be told from {rest} on these clips"
        return text + (" and seeds" if len(first.checkpoints) > 1 else "; one seed says nothing of other seeds")
    if unknown:
        return f"{title} is first; how sure that is, is not known: the figures of single clips were not kept"
    text = f"{title} is first, by more than the clips can explain"
    return text + (" over its seeds" if len(first.checkpoints) > 1 else "; one seed says nothing of other seeds")


def table(found: Ranking) -> str:
    """CSV, a row a place."""
    made = io.StringIO()
    writer = tables.writer(made, lineterminator="\n")
    head = [
        "place",
        "cell",
        "step",
        found.metric,
        "half_width",
        "seeds",
        "behind",
        "low",
        "high",
        "tied",
        "checkpoints",
    ]
    writer.writerow(head)
    for number, place in enumerate(found.places, 1):
        one = place.behind
        apart = [one.mean, one.low, one.high] if one is not None else [None] * 3
        row = [number, place.cell, place.step, place.value, place.half, len(place.checkpoints), *apart, place.tied]
        writer.writerow(["" if value is None else value for value in [*row, " ".join(map(str, place.checkpoints))]])
    return made.getvalue()

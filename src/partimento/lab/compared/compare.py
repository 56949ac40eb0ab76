"""`compare`: runs side by side, grouped by what differs, with what their differences are worth."""

from __future__ import annotations

import csv as tables
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab.compared import pairs as between
from partimento.lab.compared.cells import Cell, One, cells, read_runs
from partimento.lab.compared.figures import columns
from partimento.lab.compared.pairs import Pair
from partimento.lab.compared.statistics import mean_and_half
from partimento.lab.verdict import SOUND
from partimento.progress import Progress, Quiet


@dataclass(frozen=True)
class Comparison:
    """`cells` in the order in which their first runs came, `pairs` with a verdict each, `notes` for whoever reads."""

    cells: list[Cell]
    pairs: list[Pair]
    by: str | None
    sound: bool
    notes: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """The settings that vary."""
        return list(self.cells[0].changes)

    @property
    def apart(self) -> bool:
        """Whether cells differ in codec, cardinality or pattern: bits per second alone can be compared then."""
        codecs = {json.dumps([one.first.identity.get(key) for key in ("codec", "codec_weights")]) for one in self.cells}
        patterns = {json.dumps(one.first.settings.get("model.pattern")) for one in self.cells}
        return not self.sound and (len(codecs) > 1 or len(patterns) > 1)

    @property
    def shown(self) -> list[str]:
        """The columns in which some run has a figure that may stand beside that of every other."""
        return [
            name
            for name, column in columns(self.sound).items()
            if (column.apart or not self.apart) and any(cell.figure(name) for cell in self.cells)
        ]

    @property
    def alike(self) -> dict[str, float]:
        """Of those columns what is one and the same figure in every run, and known of every one."""
        found = {}
        for name in self.shown:
            values = {one.figures.values.get(name) for cell in self.cells for one in cell.runs.values()}
            value = values.pop() if len(values) == 1 else None
            if value is not None:
                found[name] = value
        return found

    @property
    def varied(self) -> list[str]:
        """The other ones."""
        alike = self.alike
        return [name for name in self.shown if name not in alike]

    def row(self, cell: Cell, name: str) -> tuple[float, float | None] | None:
        """Mean over the seeds and half of its 95 % interval; None where it was not logged."""
        found = cell.figure(name)
        return mean_and_half(found) if found else None

    def to_json(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "varied": self.keys,
            "cells": [
                {
                    "name": cell.name,
                    "changes": cell.changes,
                    "runs": [one_json(one) for _, one in sorted(cell.runs.items())],
                    "means": {name: self.row(cell, name) for name in columns(self.sound)},
                }
                for cell in self.cells
            ],
            "pairs": [pair.to_json() for pair in self.pairs],
            "notes": self.notes,
        }


def one_json(one: One) -> dict[str, Any]:
    found = one.figures
    return {
        "run": str(one.run.path),
        "seed": one.seed,
        "step": found.step,
        "weights": found.weights,
        "ended": found.ended,
        "figures": found.values,
        "books": found.books,
        "clips_kept": one.items is not None,
    }


def compare(
    runs: Sequence[str | Path],
    *,
    by: str | None = None,
    to: str | Path | None = None,
    csv: str | Path | None = None,
    docs: str | Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the runs at `runs` (folders of runs stand for all within), and write what is asked for: a page `to`, a
    table `csv` (and beside it NAME.pairs.csv), a document `docs` in Markdown with a section a pair, which names the
    `command` that made it, and keeps what was written by hand between the marks at its head.

    `by` a setting: only cells that differ in nothing else are held against each other. Raises LAB070 (a folder without
    runs), LAB071 (runs of different kinds), LAB072 (fewer than two runs), LAB073 (`by` is not what they differ in),
    LAB079 (`docs` is a page of somebody's own), RUN001, RUN002, SYS002.
    """
    from partimento.lab.compared.document import document, written_before

    progress = progress or Quiet()
    notes: list[str] = []
    old = "" if docs is None else written_before(Path(docs))
    progress.stage("compare", "the logs of the runs are read; no model is built")
    found = read_runs(runs, notes.append)
    if len(found) < 2:
        raise PartimentoError(
            "LAB072",
            f"there is {len(found)} run to compare",
            why="a comparison needs two",
            next="partimento report RUN tells of one",
        )
    grouped = cells(found, notes.append)
    if by is not None and by not in grouped[0].changes:
        differ = ", ".join(grouped[0].changes) or "nothing but the seed"
        raise PartimentoError(
            "LAB073", f"the runs do not differ in {by}", why=f"they differ in {differ}", next="leave --by away"
        )
    made = Comparison(
        cells=grouped,
        pairs=between.pairs(between.chosen(grouped, by)),
        by=by,
        sound=found[0].run.record["family"] in SOUND,
        notes=notes,
    )
    notes += _remarks(made)
    for note in notes:
        progress.note(note)
    if csv is not None:
        commit.text(Path(csv), runs_csv(made))
        commit.text(Path(csv).with_suffix(".pairs.csv"), pairs_csv(made))
    if docs is not None:
        commit.text(Path(docs), document(made, command, old))
    if to is not None:
        from partimento.lab.compared.page import render

        progress.stage("page", "curves are drawn, demos are embedded")
        commit.text(Path(to), render(made))
    return made


def _remarks(found: Comparison) -> list[str]:
    """What may make the figures less equal than they look."""
    runs = [one for cell in found.cells for one in cell.runs.values()]
    told = []
    if unfinished := [one.run.id for one in runs if one.figures.ended in (None, "interrupted")]:
        told.append(f"not finished: {', '.join(unfinished)}; their last validation counts")
    if broken := [f"{one.run.id} ({one.figures.ended})" for one in runs if (one.figures.ended or "").isupper()]:
        told.append(f"ended by an error: {', '.join(broken)}; their last validation counts")
    ends = {one.figures.step for one in runs}
    if len(ends) > 1:
        told.append(f"validated last at different steps: {', '.join(str(step) for step in sorted(ends, key=str))}")
    if found.apart:
        told.append("codecs or patterns differ, so only figures in units of the audio are shown side by side")
    told += _floor(found)
    if len({one.figures.weights for one in runs}) > 1:
        told.append("some were judged with averaged weights, others with raw ones")
    return told


def _floor(found: Comparison) -> list[str]:
    """Which cells have learned less than what needs no model: what is between them says little then."""
    floor = "input" if found.sound else "bigram"
    under = []
    for cell in found.cells:
        score, known = found.row(cell, "score"), found.row(cell, floor)
        if score is not None and known is not None and score[0] >= known[0]:
            under.append(cell.name)
    if not under:
        return []
    who = "no cell is" if len(under) == len(found.cells) else f"{', '.join(under)}: not"
    what = "nearer to the target than the input itself" if found.sound else "better than counting pairs of codes"
    return [f"{who} {what} ({floor}), so the differences say little of models that have learned more"]


def runs_csv(found: Comparison) -> str:
    """A row a run; an empty field is what was not logged."""
    names = list(columns(found.sound))
    every = [one.figures.books for cell in found.cells for one in cell.runs.values()]
    books = max((len(row) for lists in every for row in lists.values()), default=0)
    head = ["cell", *found.keys, "seed", "run", "step", "weights", "ended", *names]
    head += [f"{name}_{book + 1}" for name in ("ce", "entropy") for book in range(books)]
    rows = []
    for cell in found.cells:
        for seed, one in sorted(cell.runs.items()):
            own = one.figures
            changes = [value if isinstance(value, str) else json.dumps(value) for value in cell.changes.values()]
            lists = [own.books.get(name, []) for name in ("ce", "entropy")]
            padded = [value for row in lists for value in [*row, *[None] * (books - len(row))]]
            values = [own.values.get(name) for name in names]
            rows.append([cell.name, *changes, seed, one.run.id, own.step, own.weights, own.ended, *values, *padded])
    return _csv(head, rows)


def pairs_csv(found: Comparison) -> str:
    """A row a pair."""
    head = ["first", "second", "figure", "mean_first", "mean_second", "basis", "difference", "low", "high", "sources"]
    head += ["seeds", "p", "p_holm", "p_signed_ranks", "d_z", "d_z_low", "d_z_high", "decided", "more_seeds", "verdict"]
    rows = []
    for pair in found.pairs:
        one, effect = pair.interval, pair.effect
        interval = [one.mean, one.low, one.high, one.n, one.seeds] if one else [None] * 5
        of_clips = [effect.d, effect.low, effect.high] if effect else [None] * 3
        tests = [pair.p, pair.adjusted, pair.signed_ranks]
        start = [pair.first, pair.second, pair.figure, *pair.lower, pair.basis]
        rows.append([*start, *interval, *tests, *of_clips, pair.decided, pair.more_seeds, pair.verdict])
    return _csv(head, rows)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    made = io.StringIO()
    writer = tables.writer(made, lineterminator="\n")
    writer.writerows([head, *(["" if value is None else value for value in row] for row in rows)])
    return made.getvalue()

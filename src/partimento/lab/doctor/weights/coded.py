"""The rows of codes: those that no step has touched (`unshown`), those that are there twice, those that stand out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from partimento.lab import charts
from partimento.lab.charts import Line
from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.weights import unshown
from partimento.lab.doctor.weights.case import Case, graded
from partimento.lab.doctor.weights.profile import Profile
from partimento.lab.doctor.weights.rows import Books

_LOUD = ((10.0, 0.35), (30.0, 0.6), (100.0, 0.85))
_LISTED = 8


def tables(case: Case) -> Examined:
    found = [(one, one.books) for one in case.sound if one.books is not None]
    if not found:
        return Examined(missing=("Rows of codes: this family has no tables of codes, or does not describe them.",))
    parts = [unshown.examine(case, one, books) for one, books in found if books.dead is not None]
    parts += [_alike(found), _loud(found)]
    return Examined(
        tuple(finding for part in parts for finding in part.findings),
        tuple(line for part in parts for line in part.fine),
        tuple(line for part in parts for line in part.missing),
    )


def _alike(found: list[tuple[Profile, Books]]) -> Examined:
    groups = [
        (one, book, left)
        for one, books in found
        for book, of in enumerate(books.alike)
        for codes in of
        if len(left := [code for code in codes if code not in _never(found, books, book)]) > 1
    ]
    number = sum(len(codes) for *_, codes in groups)
    if not groups:
        return Examined(fine=("No two codes of a book have the same row.",))
    one, book, codes = max(groups, key=lambda group: len(group[2]))
    text = (
        f"{number} rows are copies of one another, in {len(groups)} groups; in book {book + 1} of {one.name} the codes "
        f"{', '.join(map(str, codes[:_LISTED]))}{', ...' if len(codes) > _LISTED else ''} have one row. Rows that were "
        "drawn and trained on their own are never equal."
    )
    where = f"{one.name}, book {book + 1}"
    assert one.books is not None
    sizes = {code: len(of) for each, at, of in groups if each is one and at == book for code in of}
    same = [sizes.get(code, 1) for code in range(one.books.layout.codes[book])]
    chart = _by_code("duplicate_rows", same, list(sizes), y_label=f"codes of book {book + 1} that have this row")
    return Examined((Finding("duplicate_rows", 0.9 if number > 2 else 0.75, (Evidence(text, chart),), where),))


def _never(found: list[tuple[Profile, Books]], books: Books, book: int) -> set[int]:
    """Of a table of outputs, the codes that no batch has had: their rows have one gradient, so they grow together."""
    if books.layout.what != "output rows":
        return set()
    inputs = [of for _, of in found if of.layout.what == "input rows" and of.layout.books == books.layout.books]
    return {code for of in inputs if of.dead is not None for code in of.dead[book]}


def _by_code(name: str, values: Sequence[float], marked: Sequence[int], *, y_label: str, log_y: bool = False) -> str:
    """One value a code of a book; those that are marked have a tick."""
    line = Line("", list(range(len(values))), list(values), charts.BLUE, band=True)
    return charts.line_chart(
        f"doctor-{name}", [line], y_label=y_label, x_label="code", marks=marked, log_y=log_y, height=pictures.HEIGHT
    )


def _loud(found: list[tuple[Profile, Books]]) -> Examined:
    rows = []
    for one, books in found:
        for book, of in enumerate(books.loud):
            never = len(books.dead[book]) / books.layout.codes[book] if books.dead is not None else 0.0
            if never < 0.4:  # else the middle row is one that never moved
                rows += [(one, book, code, times) for code, times in of.items()]
    if not rows:
        return Examined(fine=("No row of a code is ten times as long as the middle one of its book.",))
    one, book, code, times = max(rows, key=lambda row: row[3])
    sure = graded(math.log(times), [(math.log(value), confidence) for value, confidence in _LOUD])
    text = (
        f"{len(rows)} rows stand out by their length: code {code} of book {book + 1} in {one.name} is {times:.0f} "
        "times as long as the middle row of its book."
    )
    assert one.books is not None
    lengths, marked = one.books.length_KV[book], list(one.books.loud[book])
    chart = _by_code("exploding_rows", lengths, marked, y_label=f"length of the rows of book {book + 1}", log_y=True)
    where = f"{one.name}, book {book + 1}, code {code}"
    return Examined((Finding("exploding_rows", sure, (Evidence(text, chart),), where),))

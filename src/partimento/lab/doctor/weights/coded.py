"""The rows of codes: those that no step has touched, those that are there twice, those that stand out."""

from __future__ import annotations

import math

from partimento.lab import charts
from partimento.lab.charts import Line
from partimento.lab.doctor.finding import LIKELY, Evidence, Examined, Finding
from partimento.lab.doctor.weights.case import Case, graded
from partimento.lab.doctor.weights.profile import Profile
from partimento.lab.doctor.weights.rows import Books

ENOUGH = 20.0
"""Codes of a book that were drawn so often on average, all of equal frequency, would all have been seen."""
_SHARE = ((0.0, 0.2), (0.02, 0.4), (0.06, 0.55), (0.12, 0.85), (0.3, 0.92))
_LOUD = ((10.0, 0.35), (30.0, 0.6), (100.0, 0.85))
_LISTED = 8


def tables(case: Case) -> Examined:
    found = [(one, one.books) for one in case.sound if one.books is not None]
    if not found:
        return Examined(missing=("Rows of codes: this family has no tables of codes, or does not describe them.",))
    parts = [_dead(case, one, books) for one, books in found if books.dead is not None]
    parts += [_alike(found), _loud(found)]
    return Examined(
        tuple(finding for part in parts for finding in part.findings),
        tuple(line for part in parts for line in part.fine),
        tuple(line for part in parts for line in part.missing),
    )


def _dead(case: Case, one: Profile, books: Books) -> Examined:
    """Input rows without any second moment: their codes were in no batch. (Output rows learn from every batch.)"""
    assert books.dead is not None
    if books.layout.what != "input rows":
        return Examined()
    if one.empty:
        return Examined()  # it is no matter of single codes: see `moving.gradients`
    counts = [len(codes) for codes in books.dead]
    sizes = books.layout.codes
    if not any(counts):
        return Examined(fine=(f"Every code of the {len(sizes)} books has been in a batch ({one.name}).",))
    worst = max(range(len(counts)), key=lambda book: counts[book] / sizes[book])
    share = counts[worst] / sizes[worst]
    sure, seen = graded(share, _SHARE), _times_seen(case, sizes[worst])
    if seen is not None and seen < ENOUGH:
        sure = min(sure, 0.3)
    listed = ", ".join(map(str, books.dead[worst][:_LISTED])) + (", ..." if counts[worst] > _LISTED else "")
    text = (
        f"{counts[worst]} of {sizes[worst]} codes of book {worst + 1} were in no batch of {case.snapshot.step:,} "
        f"steps: their rows of {one.name} have no second moment ({listed})."
    )
    if len(counts) > 1:
        text += f" Over the {len(counts)} books it is {sum(counts)} of {sum(sizes)}."
    if seen is not None:
        text += f" In all this time a code of this book was drawn {seen:,.0f} times on average."
    chart = None
    shares = [100 * count / size for count, size in zip(counts, sizes, strict=True)]
    if sure >= LIKELY and len(set(shares)) > 1:
        line = Line("", list(range(1, len(shares) + 1)), shares, charts.BLUE)
        chart = charts.by_book("doctor-dead_codes", [line], y_label="codes never seen, %", height=2.0)
    books_named = ", ".join(str(book + 1) for book, count in enumerate(counts) if count)
    return Examined((Finding("dead_codes", sure, (Evidence(text, chart),), f"{one.name}, books {books_named}"),))


def _times_seen(case: Case, codes: int) -> float | None:
    """How often a code of a book was drawn on average; None where the window is not known."""
    samples, window = case.state.get("samples_seen"), (case.patient.raw.get("data") or {}).get("window")
    if not isinstance(samples, int) or not isinstance(window, int):
        return None
    return samples * window / codes


def _alike(found: list[tuple[Profile, Books]]) -> Examined:
    groups = [(one, book, codes) for one, books in found for book, of in enumerate(books.alike) for codes in of]
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
    return Examined((Finding("duplicate_rows", 0.9 if number > 2 else 0.75, (Evidence(text),), where),))


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
    return Examined((Finding("exploding_rows", sure, (Evidence(text),), f"{one.name}, book {book + 1}, code {code}"),))

"""The words of a comparison: cells of tables and lines for a terminal."""

from __future__ import annotations

from collections.abc import Collection

from partimento.lab.compared.cells import Cell
from partimento.lab.compared.compare import Comparison
from partimento.lab.compared.figures import columns
from partimento.lab.compared.pairs import Pair

HOLM = (
    "Decided means: a p value under 0.05 after Holm's correction for the {n} comparisons made here, so that the chance"
    " of even one false finding among them is at most 5 %."
)
BASIS = {
    "clips and seeds": "the same clips and seeds, interval over both",
    "clips": "the same clips, one seed: what seeds do is not known",
    "seeds": "whole runs, seed by seed; single clips are not paired",
    "apart": "not the same music or codec",
}


def spread(value: tuple[float, float | None] | None, form: str) -> str:
    """Mean ± half width, or the mean where one seed tells of no spread."""
    if value is None:
        return "–"
    mean, half = value
    return f"{mean:{form}}" if half is None else f"{mean:{form}} ± {half:{form.lstrip('+')}}"


def holm(found: Comparison) -> str:
    """The note on several comparisons."""
    tested = sum(pair.adjusted is not None for pair in found.pairs)
    if tested > 1:
        return HOLM.format(n=tested)
    return "Decided means: a p value under 0.05." if tested else ""


def table_of(found: Comparison, names: Collection[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a row a cell, means over its seeds; all columns that vary, or those among `names`."""
    named = columns(found.sound)
    shown = [name for name in found.varied if names is None or name in names]
    head = ["", "seeds", *(named[name].title for name in shown)]
    rows = []
    for cell in found.cells:
        values = [spread(found.row(cell, name), named[name].form) for name in shown]
        rows.append([cell.name, str(len(cell.runs)), *values])
    return head, rows


def alike(found: Comparison) -> str:
    """What stands in no table, since it is the same in every run; "" where nothing is."""
    named = columns(found.sound)
    rows = [f"{named[name].title} {value:{named[name].form}}" for name, value in found.alike.items()]
    return f"The same in every run: {', '.join(rows)}." if rows else ""


def books_of(found: Comparison, name: str) -> tuple[list[str], list[list[str]]] | None:
    """Means over the seeds of "ce" or "entropy" of each book; None where books differ or were not logged."""
    means = {cell.name: _means(cell, name) for cell in found.cells}
    sizes = {len(row) for row in means.values()}
    if len(sizes) != 1 or not (books := sizes.pop()):
        return None
    rows = [[cell, *("–" if value is None else f"{value:.3f}" for value in row)] for cell, row in means.items()]
    return ["", *(str(book + 1) for book in range(books))], rows


def _means(cell: Cell, name: str) -> list[float | None]:
    lists = [one.figures.books[name] for one in cell.runs.values() if one.figures.books.get(name)]
    if not lists or len({len(row) for row in lists}) != 1:
        return []
    return [
        sum(known) / len(known) if (known := [v for v in book if v is not None]) else None
        for book in zip(*lists, strict=True)
    ]


def numbers(pair: Pair) -> list[tuple[str, str]]:
    """What stands under the verdict of a pair."""
    rows = [("compared on", BASIS[pair.basis] + (f" ({pair.why})" if pair.why else ""))]
    one = pair.interval
    if one is not None and one.low is not None:
        rows.append(("difference, 95 %", f"{one.mean:+.4g} [{one.low:+.4g}, {one.high:+.4g}] {pair.unit}".rstrip()))
    if one is not None:
        rows.append(("seeds, sources", f"{one.seeds or 1}, {one.n or 'not looked at'}"))
    if pair.p is not None and pair.basis != "clips":
        rows.append(("p, and Holm's", f"{small(pair.p)}, {small(pair.adjusted)}"))
    if pair.signed_ranks is not None:
        rows.append(("p by signed ranks of the sources", small(pair.signed_ranks)))
    for name, effect in (("d_z over sources", pair.effect), ("d_z over seeds", pair.effect_of_seeds)):
        if effect is not None:
            rows.append((name, f"{effect.d:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}], {effect.n} pairs"))
    if pair.outlook:
        rows.append(("to decide it", pair.outlook))
    return rows


def small(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def verdicts(found: Comparison) -> list[str]:
    """A line a pair."""
    return [f"{pair.title}: {pair.verdict}" for pair in found.pairs]

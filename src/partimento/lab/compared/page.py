"""A comparison as one page that works offline: verdicts, intervals, overlaid curves, tables, a grid of sounds."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

import partimento
from partimento.lab import charts, page
from partimento.lab.charts import Line
from partimento.lab.compared import text
from partimento.lab.compared.compare import Comparison
from partimento.lab.compared.figures import NAME, columns
from partimento.lab.compared.listen import grid
from partimento.lab.compared.pairs import Pair
from partimento.lab.figures import Figure
from partimento.lab.report import AUDIO_BUDGET

COLOURS = (charts.BLUE, charts.VERMILION, charts.GREEN, charts.PINK, charts.AMBER)
DASHES = ("-", "--", ":", "-.")
STROKES = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashed"}
BOOKS = (("ce", "Cross entropy by book, nats a code, held out"), ("entropy", "Output entropy by book, nats"))
MOST_LINES = len(COLOURS) * len(DASHES)


def render(found: Comparison) -> str:
    """The page as text."""
    script = page.asset("report.js")
    template = page.environment().get_template("compare.html")
    return template.render(
        style=Markup(page.asset("report.css") + page.asset("compare.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        found=found,
        title=" and ".join(found.keys) or "Runs that differ in the seed alone",
        lede=_lede(found),
        pairs=[(pair, *_badge(pair), text.numbers(pair)) for pair in found.pairs],
        holm=text.holm(found),
        forest=forest(found.pairs),
        figures=[figure for figure in (held_out(found), _training(found), _by_book(found)) if figure is not None],
        table=text.table_of(found),
        alike=text.alike(found),
        what=[(column.title, column.what) for name, column in columns(found.sound).items() if name in found.shown],
        books=[
            (title, made)
            for name, title in BOOKS
            if not found.sound and (made := text.books_of(found, name))
        ],
        grid=grid(found.cells, AUDIO_BUDGET),
        runs=[
            (cell.name, seed, one.run.id, one.figures, one.unpaired)
            for cell in found.cells
            for seed, one in sorted(cell.runs.items())
        ],
        form=".4f" if found.sound else ".1f",
        version=partimento.__version__,
    )  # fmt: skip


def _lede(found: Comparison) -> str:
    first = found.cells[0].first.run.record
    seeds = sorted({seed for cell in found.cells for seed in cell.runs})
    runs = sum(len(cell.runs) for cell in found.cells)
    return f"{runs} runs of the family {first['family']}: {len(found.cells)} cells, seeds {', '.join(map(str, seeds))}"


def _badge(pair: Pair) -> tuple[str, str]:
    if pair.decided:
        return "decided", "good"
    return ("not comparable", "") if pair.basis == "apart" else ("not decided", "")


def forest(pairs: Sequence[Pair]) -> str | None:
    """The intervals under each other, against 0, as an SVG; None where no pair has one."""
    drawn = [(pair, pair.interval) for pair in pairs if pair.interval is not None and pair.interval.low is not None]
    if not drawn:
        return None
    ends = [value for _, one in drawn for value in (one.low, one.high) if value is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.06 * (high - low or 1.0)
    low, high = low - room, high + room
    labels = [_short(pair.title) for pair, _ in drawn]
    left, width, step, top = 30 + 7 * max(map(len, labels)), 600, 30, 14
    height = top + step * len(drawn) + 34

    def place(value: float) -> float:
        return left + width * (value - low) / (high - low)

    parts = [
        f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="{top - 6}" y2="{height - 30}" '
        'stroke="var(--muted)" stroke-dasharray="4 3"/>'
    ]
    for row, (pair, one) in enumerate(drawn):
        assert one.low is not None and one.high is not None
        y, colour = top + step * row + step / 2, "var(--blue)" if pair.decided else "var(--muted)"
        parts.append(
            f'<text x="{left - 14}" y="{y + 4:.0f}" text-anchor="end" font-size="12" fill="var(--ink)">'
            f"{Markup.escape(labels[row])}</text>"
            f'<line x1="{place(one.low):.1f}" x2="{place(one.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="2.5"/><circle cx="{place(one.mean):.1f}" cy="{y}" r="5" fill="{colour}"/>'
        )
    for value in _ticks(low, high):
        parts.append(
            f'<text x="{place(value):.1f}" y="{height - 12}" text-anchor="middle" font-size="12" '
            f'fill="var(--muted)">{f"{value:+g}" if value else 0}</text>'
        )
    unit = drawn[0][0].unit or NAME[drawn[0][0].figure]
    label = f"Differences and their 95 % intervals, {unit}"
    box = f'viewBox="0 0 {left + width + 20} {height}" role="img" class="chart" aria-label="{label}"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def _short(title: str, most: int = 84) -> str:
    return title if len(title) <= most else title[: most - 1] + "…"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, some five of them."""
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [round(step * number, 12) + 0.0 for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _style(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _legend(found: Comparison) -> list[tuple[str, str, str]]:
    rows = []
    for number, cell in enumerate(found.cells[:MOST_LINES]):
        colour, dashes = _style(number)
        rows.append((cell.name, charts.variable(colour), STROKES[dashes]))
    return rows


def _overlaid(found: Comparison, which: str) -> list[Line]:
    """A bold line a cell, the mean of its seeds where all have a value; and a thin one each seed."""
    lines = []
    for number, cell in enumerate(found.cells[:MOST_LINES]):
        colour, dashes = _style(number)
        curves = [dict(getattr(one.figures, which)) for _, one in sorted(cell.runs.items())]
        if len(curves) > 1:
            for curve in curves:
                points = sorted((step, value) for step, value in curve.items() if value is not None)
                lines.append(Line("", *_xy(points), colour, dashes, width=0.5))
        shared = sorted(set.intersection(*(set(curve) for curve in curves)))
        mean = [(step, _mean([curve[step] for curve in curves])) for step in shared]
        lines.append(Line("", *_xy([(step, value) for step, value in mean if value is not None]), colour, dashes))
    return [line for line in lines if line.x]


def _xy(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    return [float(step) for step, _ in points], [value for _, value in points]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def held_out(found: Comparison) -> Figure:
    """The curves of all cells in one drawing."""
    unit = NAME[found.cells[0].first.figures.score]
    title = f"Held-out {unit}"
    lines = _overlaid(found, "scores")
    if not lines:
        return Figure(title, "Not logged: nothing was validated.")
    caption = "Lower is better. Bold: mean of the seeds; thin: each of them."
    if len(found.cells) > MOST_LINES:
        caption += f" The first {MOST_LINES} cells are drawn."
    svg = charts.line_chart("scores", lines, y_label=unit)
    return Figure(title, caption, svg, legend=_legend(found))


def _training(found: Comparison) -> Figure | None:
    if found.apart:
        return None
    lines = _overlaid(found, "losses")
    if not lines:
        return Figure("Training loss", "Not logged.")
    svg = charts.line_chart("losses", lines, y_label="loss")
    return Figure(
        "Training loss", "As logged. Bold: mean of the seeds; thin: each of them.", svg, legend=_legend(found)
    )


def _by_book(found: Comparison) -> Figure | None:
    made: Any = None if found.sound else text.books_of(found, "ce")
    if not made:
        return None
    rows = []
    for number, row in enumerate(made[1][:MOST_LINES]):
        values = [math.nan if value == "–" else float(value) for value in row[1:]]
        rows.append(Line("", range(1, len(values) + 1), values, *_style(number)))
    svg = charts.by_book("books", rows, y_label="nats a code")
    return Figure("By codebook", "Held-out cross entropy, means over the seeds.", svg, legend=_legend(found))

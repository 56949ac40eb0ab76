"""The small drawings beside the evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from partimento.lab import charts
from partimento.lab.charts import Level, Line
from partimento.lab.doctor.log import Series

HEIGHT = 2.0


def curve(
    name: str,
    what: str,
    series: Series,
    *,
    levels: Sequence[tuple[str, float]] = (),
    marks: Sequence[float] = (),
    others: Sequence[tuple[str, Series]] = (),
    log_y: bool = False,
    at_least: tuple[float, float] | None = None,
) -> str | None:
    """One curve in blue, others behind it, dashed levels, ticks at the steps `marks`; None where nothing was read."""
    if not len(series):
        return None
    colours = (charts.AMBER, charts.GREEN, charts.PINK)
    lines = [
        Line(label, list(one.x), list(one.y), colour)
        for (label, one), colour in zip(others, colours, strict=False)
        if len(one)
    ]
    lines.append(Line("", list(series.x), list(series.y), charts.BLUE, band=True))
    return charts.line_chart(
        f"doctor-{name}",
        lines,
        y_label=what,
        levels=[Level(label, value, charts.VERMILION) for label, value in levels],
        marks=marks,
        log_y=log_y,
        at_least=at_least,
        height=HEIGHT,
    )


@dataclass(frozen=True)
class Bar:
    """`odd` is what the finding is about: it has the colour of a warning."""

    label: str
    value: float
    odd: bool = False


_ROW, _DOTS, _LEFT, _WIDTH, _ROOM, _LONGEST = 17, 14, 160, 446, 66, 27


def bars(title: str, rows: Sequence[Bar], *, unit: str = "") -> str | None:
    """A few numbers as lying bars from zero, each with its name and its value; None of nothing."""
    if not rows:
        return None
    most = 100.0 if unit == " %" else max(row.value for row in rows) or 1.0
    full = _WIDTH - _LEFT - _ROOM
    lines = [f'<text x="4" y="12" fill="var(--muted)" font-size="9">{escape(title)}</text>']
    for number, row in enumerate(rows):
        top, colour = 20 + number * _ROW, "vermilion" if row.odd else "blue"
        length = max(1.0, full * row.value / most)
        lines.append(
            f"{_name(row.label, top + 9)}"
            f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="11" rx="1.5" fill="var(--{colour})"/>'
            f'<text x="{_LEFT + length + 5:.1f}" y="{top + 9}" fill="var(--{colour})" font-size="9">'
            f"{_number(row.value)}{unit}</text>"
        )
    height = 24 + len(rows) * _ROW
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" class="chart">{"".join(lines)}</svg>'


def dots(title: str, values: Sequence[tuple[str, float]], level: tuple[str, float] | None = None) -> str | None:
    """One positive value a name, as dots on a log scale, with a dashed line at `level`; None of nothing."""
    if not values:
        return None
    known = [value for _, value in values] + ([] if level is None else [level[1]])
    low, high = math.log(min(known)), math.log(max(known))
    full, span = _WIDTH - _LEFT - _ROOM, max(high - low, 0.1)
    height = 26 + len(values) * _DOTS + (12 if level is not None else 0)
    lines = [f'<text x="4" y="12" fill="var(--muted)" font-size="9">{escape(title)}, log scale</text>']
    if level is not None:
        x = _LEFT + full * (math.log(level[1]) - low) / span
        lines.append(
            f'<path d="M{x:.1f} 20V{height - 13}" stroke="var(--vermilion)" stroke-dasharray="4 3"/>'
            f'<text x="{x:.1f}" y="{height - 3}" text-anchor="middle" fill="var(--vermilion)" font-size="9">'
            f"{escape(level[0])} ({_number(level[1])})</text>"
        )
    for number, (label, value) in enumerate(values):
        y, x = 26 + number * _DOTS, _LEFT + full * (math.log(value) - low) / span
        lines.append(
            f'{_name(label, y + 3)}<path d="M{_LEFT} {y}H{_LEFT + full}" stroke="var(--rule)" stroke-width="0.6"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="3.2" fill="var(--blue)"/>'
            f'<text x="{_WIDTH - 4}" y="{y + 3}" text-anchor="end" fill="var(--blue)" font-size="9">'
            f"{_number(value)}</text>"
        )
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" class="chart">{"".join(lines)}</svg>'


def _name(label: str, y: int) -> str:
    """At the left of a row; a long one without its middle."""
    half = _LONGEST // 2
    told = label if len(label) <= _LONGEST else f"{label[:half]}…{label[-half:]}"
    return f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end" fill="var(--ink)" font-size="9">{escape(told)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def shares(name: str, what: str, share_N: Sequence[float], *, x_label: str) -> str:
    """How many of `what` have which share (of 1), in twenty bars."""
    edges = [0.05 * place for place in range(21)]
    counts = [0] * 20
    for share in share_N:
        counts[min(19, max(0, int(20 * share)))] += 1
    return charts.histogram(
        f"doctor-{name}", [100 * edge for edge in edges], counts, y_label=what, x_label=x_label, height=HEIGHT
    )

"""The small drawings beside the evidence."""

from __future__ import annotations

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
        height=HEIGHT,
    )


@dataclass(frozen=True)
class Bar:
    """`odd` is what the finding is about: it has the colour of a warning."""

    label: str
    value: float
    odd: bool = False


_ROW, _LEFT, _WIDTH, _ROOM, _LONGEST = 17, 150, 446, 66, 26


def bars(title: str, rows: Sequence[Bar], *, unit: str = "") -> str | None:
    """A few numbers as lying bars from zero, each with its name and its value; None of nothing."""
    if not rows:
        return None
    most = max(row.value for row in rows) or 1.0
    full = _WIDTH - _LEFT - _ROOM
    lines = [f'<text x="4" y="12" fill="var(--muted)" font-size="9">{escape(title)}</text>']
    for number, row in enumerate(rows):
        top, colour = 20 + number * _ROW, "vermilion" if row.odd else "blue"
        length = max(1.0, full * row.value / most)
        told = (
            row.label if len(row.label) <= _LONGEST else f"{row.label[: _LONGEST // 2]}…{row.label[-_LONGEST // 2 :]}"
        )
        lines.append(
            f'<text x="{_LEFT - 6}" y="{top + 9}" text-anchor="end" fill="var(--ink)" font-size="9">'
            f"{escape(told)}</text>"
            f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="11" rx="1.5" fill="var(--{colour})"/>'
            f'<text x="{_LEFT + length + 5:.1f}" y="{top + 9}" fill="var(--{colour})" font-size="9">'
            f"{_number(row.value)}{unit}</text>"
        )
    height = 24 + len(rows) * _ROW
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" class="chart">{"".join(lines)}</svg>'


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

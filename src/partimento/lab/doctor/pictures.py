"""The small drawings beside the evidence."""

from __future__ import annotations

from collections.abc import Sequence

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

"""An evaluation on the terminal: what came in and went out for each shift, the difference and its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partimento.lab.restored import artifacts as faultlist
from partimento.lab.restored.metrics import Metric
from partimento.lab.restored.tables import EVERY, Row, find

if TYPE_CHECKING:
    from partimento.lab.restored.evaluate import Evaluation

SHOWN = ("mel7", "lsd", "lsd_high", "si_sdr")
HEAD = ["shift", "input", "output", "difference", "95 % interval", "", "wins", "identity", "subtraction", "sources"]


def shift_name(semitones: float | None) -> str:
    return "all shifts" if semitones is None else f"{semitones:+g}" if semitones else "0 (as it is)"


def verdict(row: Row) -> str:
    if row.improves is None:
        return "no difference shown"
    return "better" if row.improves else "WORSE"


def cells(row: Row) -> list[str]:
    """A row of a table as texts, from the shift on."""
    difference, digits = row.difference, 5 if row.metric == "l1" else 3
    low, high = difference.low, difference.high
    return [
        shift_name(row.semitones),
        f"{row.input.mean:.{digits}f}",
        f"{row.output.mean:.{digits}f}",
        f"{difference.mean:+.{digits}f}",
        "one source" if low is None or high is None else f"{low:+.{digits}f} to {high:+.{digits}f}",
        verdict(row),
        f"{100 * row.better:.0f} %",
        f"{row.identity.mean:.{digits}f}",
        f"{row.subtraction.mean:.{digits}f}",
        str(difference.n),
    ]


def title(metric: Metric) -> str:
    return f"{metric.title}{', ' + metric.unit if metric.unit else ''} ({metric.better} is better)"


def text(found: Evaluation) -> str:
    """The tables of all kinds together; the rest is in figures.json and on the page."""
    parts = [found.sentence]
    shown = [metric for metric in found.metrics if metric.name in SHOWN or metric.name in found.predictors]
    for protocol in found.protocols:
        for metric in shown:
            rows = find(found.rows, protocol, metric.name, EVERY)
            if rows:
                parts.append(f"{protocol}: {title(metric)}\n{_aligned([HEAD, *map(cells, rows)])}")
        counted = [one for one in found.artifacts if one.protocol == protocol and (one.input or one.output)]
        lines = [
            f"  {faultlist.BY_NAME[one.artifact].title}: input {one.input}, output {one.output} of {one.of}"
            for one in counted
        ]
        parts.append(f"{protocol}: artifacts found\n" + ("\n".join(lines) or "  none"))
    parts += [f"note: {doubt}" for doubt in found.doubts]
    return "\n\n".join(parts)


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )

"""Line charts of a report as small inline SVG.

They are drawn with stand-in colours that become CSS variables, so one chart serves the light and the dark page.
Text stays text. matplotlib is imported only when a chart is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in colour in the drawing -> CSS variable of the page.
INK, MUTED, RULE = "#0a0001", "#0a0002", "#0a0003"
BLUE, VERMILION, GREEN, PINK, AMBER = "#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    BLUE: "--blue",
    VERMILION: "--vermilion",
    GREEN: "--green",
    PINK: "--pink",
    AMBER: "--amber",
}
# Inches; the page scales the drawing, so these set the size of the text relative to its place.
HALF, THIRD, WIDE = 6.2, 4.4, 10.5
FEW_POINTS, MAX_POINTS = 60, 300  # longer curves are drawn by bins of neighbouring points
_FONT = 9.0


@dataclass(frozen=True)
class Line:
    """One curve: y against optimizer steps; `label` is written at its end."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = BLUE
    dashes: str = "-"
    band: bool = False  # a noisy curve: mean of each bin as line, its range as a pale band
    width: float = 1.6


@dataclass(frozen=True)
class Level:
    """A horizontal mark, e.g. a baseline."""

    label: str
    y: float
    colour: str = MUTED
    dashes: str = "--"
    width: float = 1.1


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()


def variable(colour: str) -> str:
    """The CSS variable that a colour of a drawing becomes in the page."""
    return _VARIABLES[colour]


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    y_label: str,
    x_label: str = "optimizer step",
    levels: Sequence[Level] = (),
    log_y: bool = False,
    log_x: bool = False,
    marks: Sequence[float] = (),
    at_least: tuple[float, float] | None = None,
    width: float = HALF,
    height: float = 2.7,
) -> str:
    """One chart as an SVG string. `marks` are steps to point out at the bottom (e.g. skipped steps); the y axis begins
    at `at_least[0]` and reaches `at_least[1]` or more, where given."""
    figure, axes = _figure(1, 1, width, height, _room([*lines, *levels]))
    axis = axes[0]
    if log_y and _ratio(lines) > 3:  # over less than that a log axis has no round numbers to show
        _log_scale(axis, "y")
        y_label += ", log scale"
    if log_x:
        _log_scale(axis, "x")
    labels = _draw(axis, lines, levels)
    if at_least is not None:
        axis.set_ylim(at_least[0], max(at_least[1], axis.get_ylim()[1]))
    if marks:
        axis.plot(list(marks), [0.015] * len(marks), "|", color=VERMILION, ms=7, transform=axis.get_xaxis_transform())
    axis.set_xlabel(x_label)
    axis.set_title(y_label, loc="left", color=MUTED, fontsize=_FONT)
    _place(axis, labels, height)
    return _svg(figure, name)


def small_multiples(name: str, panels: Sequence[Panel], *, y_label: str, x_label: str = "optimizer step") -> str:
    """One small chart a codebook, sharing the x axis; the legend stands under the drawing, in the page."""
    columns = 3 if len(panels) <= 9 else 6
    rows = -(-len(panels) // columns)
    figure, axes = _figure(rows, columns, WIDE, 0.45 + 1.5 * rows)
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel.lines, panel.levels)
        axis.set_title(panel.title, loc="left", color=INK, fontsize=_FONT, pad=3)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel(y_label)
    for axis in axes[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel(x_label)
        axis.tick_params(labelbottom=True)
    return _svg(figure, name)


def by_book(name: str, rows: Sequence[Line], *, y_label: str, from_zero: bool = False, height: float = 2.7) -> str:
    """Values per codebook (x = 1..K) as marked lines, one for each of `rows`."""
    figure, axes = _figure(1, 1, HALF, height, _room(rows))
    labels = _draw(axes[0], rows, (), marker="o")
    if from_zero:
        axes[0].set_ylim(0.0, 1.15 * axes[0].get_ylim()[1])
    axes[0].set_xticks(sorted({int(x) for row in rows for x in row.x}))
    axes[0].set_xlabel("codebook, coarse to fine")
    axes[0].set_title(y_label, loc="left", color=MUTED, fontsize=_FONT)
    _place(axes[0], labels, height)
    return _svg(figure, name)


def histogram(
    name: str,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    y_label: str,
    x_label: str,
    log_x: bool = False,
    levels: Sequence[Level] = (),
    mark: tuple[float, str] | None = None,
    colour: str = BLUE,
    width: float = HALF,
    height: float = 2.7,
) -> str:
    """Bars from edges[i] to edges[i + 1]; `mark` is a place on the x axis and its name."""
    figure, axes = _figure(1, 1, width, height, _room(levels))
    axis = axes[0]
    if log_x:
        _log_scale(axis, "x")
    left, right = np.asarray(edges[:-1], dtype=float), np.asarray(edges[1:], dtype=float)
    axis.bar(left, counts, right - left, align="edge", color=colour, alpha=0.85, edgecolor="none")
    labels = _draw(axis, (), levels)
    if mark is not None:
        axis.axvline(mark[0], color=VERMILION, linestyle="--", linewidth=1.1)
        axis.annotate(
            mark[1], (mark[0], 0.93), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points",
            color=VERMILION, fontsize=_FONT - 0.5,
        )  # fmt: skip
    axis.set_xlabel(x_label)
    axis.set_title(y_label, loc="left", color=MUTED, fontsize=_FONT)
    _place(axis, labels, height)
    return _svg(figure, name)


def _room(labelled: Sequence[Line | Level]) -> float:
    """Inches that the longest label needs at the right edge."""
    longest = max((len(item.label) for item in labelled), default=0)
    return 0.12 + longest * _FONT * 0.62 / 72


def _ratio(lines: Sequence[Line]) -> float:
    values = np.concatenate([np.asarray(line.y, dtype=float) for line in lines])
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.max() / values.min()) if len(values) else 1.0


def _figure(rows: int, columns: int, width: float, height: float, right: float = 0.12) -> tuple[Figure, list[Axes]]:
    """An empty drawing with margins in inches: fixed ones, so that neighbouring charts line up."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    matplotlib.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    grid = figure.subplots(rows, columns, sharex=rows * columns > 1, squeeze=False)
    figure.subplots_adjust(
        left=0.58 / width,
        right=1 - right / width,
        bottom=0.44 / height,
        top=1 - 0.27 / height,
        wspace=0.5 * columns / (width - 0.6),
        hspace=0.36 * rows / (height - 0.7),
    )
    axes = list(grid.flat)
    for axis in axes:
        axis.patch.set_visible(False)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(RULE)
        axis.grid(axis="y", color=RULE, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(colors=MUTED, labelsize=_FONT - 1, length=0)
        axis.xaxis.label.set_color(MUTED)
        axis.yaxis.label.set_color(MUTED)
        axis.xaxis.label.set_size(_FONT - 0.5)
        axis.yaxis.label.set_size(_FONT - 0.5)
        axis.margins(x=0.02, y=0.08)
        axis.locator_params(axis="y", nbins=5)
        axis.locator_params(axis="x", nbins=6 if columns == 1 else 4, integer=True)
        for way in (axis.xaxis, axis.yaxis):
            way.set_major_formatter(FuncFormatter(_number))
    return figure, axes


def _number(value: float, _: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _log_scale(axis: Axes, which: Literal["x", "y"]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    (axis.set_yscale if which == "y" else axis.set_xscale)("log")
    way = axis.yaxis if which == "y" else axis.xaxis
    way.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if which == "y" else (1.0,)))
    way.set_minor_locator(NullLocator())
    way.set_major_formatter(FuncFormatter(_number))


def _draw(axis: Axes, lines: Sequence[Line], levels: Sequence[Level], marker: str = "") -> list[tuple[float, str, str]]:
    """Draw everything; returns (y, label, colour) of what wants a label at the right edge."""
    labels = []
    for line in lines:
        x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
        finite = np.isfinite(y)
        if not finite.any():
            continue
        if len(x) > FEW_POINTS:
            x, y, low, high = _binned(x, y)
            if line.band:
                axis.fill_between(x, low, high, color=line.colour, alpha=0.18, linewidth=0)
        single = marker or ("o" if np.isfinite(y).sum() == 1 else "")
        axis.plot(x, y, line.dashes, color=line.colour, linewidth=line.width, marker=single, markersize=3.5)
        labels.append((float(y[np.isfinite(y)][-1]), line.label, line.colour))
    for level in levels:
        axis.axhline(level.y, color=level.colour, linestyle=level.dashes, linewidth=level.width, zorder=1)
        labels.append((level.y, level.label, level.colour))
    return labels


def _binned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Mean, lowest and highest of y in at most MAX_POINTS bins of neighbouring points; a bin of NaN stays NaN."""
    groups = np.array_split(np.arange(len(x)), min(MAX_POINTS, max(FEW_POINTS, len(x) // 4)))
    rows = []
    for group in groups:
        values = y[group][np.isfinite(y[group])]
        summary = (values.mean(), values.min(), values.max()) if len(values) else (np.nan,) * 3
        rows.append((x[group].mean(), *summary))
    return tuple(np.array(rows).T)


def _place(axis: Axes, labels: list[tuple[float, str, str]], height: float) -> None:
    """Write the labels right of the axis at the height of their line, moved apart where they would overlap."""
    if not labels:
        return
    low, high = axis.get_ylim()
    to_share = axis.transScale + axis.transLimits
    heights = [float(np.clip(to_share.transform((axis.get_xlim()[1], y))[1], 0, 1)) for y, _, _ in labels]
    axis.set_ylim(low, high)
    gap = _FONT * 1.25 / 72 / (height * 0.72)
    order = sorted(range(len(labels)), key=lambda i: heights[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(heights[i], placed[-1] + gap) if placed else heights[i])
    overflow = max(0.0, placed[-1] - 1.02)
    for i, height in zip(order, placed, strict=True):
        _, text, colour = labels[i]
        axis.annotate(
            text, (1, height - overflow), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points",
            va="center", ha="left", color=colour, fontsize=_FONT - 0.5, annotation_clip=False,
        )  # fmt: skip


def _svg(figure: Figure, name: str) -> str:
    """The drawing as an <svg> element: stand-in colours to variables, ids made the chart's own, no metadata."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"partimento {name}"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img" class="chart">', text, count=1)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)  # inline, its rules would reach the whole page
    text = text.replace("xlink:href", "href")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: [^;\"]*?([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return text

"""The figures of a report, from the events of a run: what is drawn, what its caption says, and what was not logged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from partimento.lab import charts
from partimento.lab.charts import Level, Line, Panel
from partimento.lab.verdict import latest
from partimento.runs.events import Event, curve

Points = list[tuple[int, Any]]
KNOWN_VALID = {"kind", "step", "time", "weights", "ce_K", "eos_ce", "bits_per_second", "entropy_K", "codes"}


@dataclass
class Figure:
    """`svg` is None where nothing was logged to draw; `caption` then says what is missing."""

    title: str
    caption: str
    svg: str | None = None
    size: str = "half"  # of the width of the page: half, third, wide
    legend: list[tuple[str, str, str]] = field(
        default_factory=list
    )  # (label, CSS variable, "solid" | "dashed" | "dotted")


def learning(events: Sequence[Event]) -> list[Figure]:
    """Curves of the training itself."""
    return [_bits(events), _loss(events), rate(events), _gradient(events), speed(events), *other_measures(events)]


def codebooks(events: Sequence[Event]) -> list[Figure]:
    """Cross entropy and output entropy of each codebook."""
    if latest(events, "valid", weights="ema") is None and latest(events, "valid", weights="raw") is None:
        return [Figure("Cross entropy per codebook", "No validation was logged yet.")]
    return [_by_book(events), _cross_entropy(events), _output_entropy(events)]


def _bits(events: Sequence[Event]) -> Figure:
    title = "Held-out bits per second of audio"
    lines = both_weights(events, "bits_per_second")
    if not lines:
        return Figure(title, "Not logged: no validation measured bits per second.")
    baseline = latest(events, "baseline") or {}
    levels = [
        Level(name, baseline[key], charts.MUTED, dashes)
        for name, key, dashes in (
            ("unigram", "unigram_bits_per_second", ":"),
            ("bigram", "bigram_bits_per_second", "--"),
        )
        if baseline.get(key) is not None
    ]
    caption = "Lower is better. The dashed lines are what counting the training codes reaches on the same windows."
    if not levels:
        caption = "Lower is better. No baseline was logged."
    return Figure(title, caption, charts.line_chart("bits", lines, levels=levels, y_label="bits per second"))


def _loss(events: Sequence[Event]) -> Figure:
    points = curve(events, "train", "loss")
    lines = [Line("train", *xy(points), charts.BLUE, band=True)] if points else []
    for weights, colour, dashes in (("ema", charts.VERMILION, "-"), ("raw", charts.AMBER, "--")):
        held_out = [(step, mean(value)) for step, value in curve(events, "valid", "ce_K", weights=weights)]
        if held_out:
            lines.append(Line(f"valid ({weights})", *xy(held_out), colour, dashes))
    if not lines:
        return Figure("Loss", "Not logged: no training step was recorded.")
    caption = "Cross entropy, mean over codes."
    if len(points) > charts.FEW_POINTS:
        caption += " The training loss is averaged over neighbouring log lines; the pale band is their range."
    return Figure("Loss", caption, charts.line_chart("loss", lines, y_label="nats per code"))


def rate(events: Sequence[Event]) -> Figure:
    """The learning rate as it was."""
    points = curve(events, "train", "lr")
    if not points:
        return Figure("Learning rate", "Not logged.", size="third")
    svg = small("lr", [Line("", *xy(points), charts.GREEN)], y_label="learning rate")
    returns = sum(event["kind"] == "rollback" for event in events)
    caption = "As it was at each step" + (f", with {returns} rollback{'s' * (returns > 1)}." if returns else ".")
    return Figure("Learning rate", caption, svg, "third")


def _gradient(events: Sequence[Event]) -> Figure:
    points = curve(events, "train", "grad_norm")
    if not any(value for _, value in points):
        return Figure("Gradient norm", "Not logged.", size="third")
    counts = [(step, value) for step, value in curve(events, "train", "skipped") if value is not None]
    skipped = [step for (_, before), (step, now) in itertools.pairwise([(0, 0), *counts]) if now > before]
    lost = sum(1 for _, value in points if value is None)
    caption = "Global norm before clipping."
    if skipped:
        caption += f" Steps whose update was skipped: {counts[-1][1]} (marks at the bottom)."
    elif not counts:
        caption += " Whether steps were skipped was not logged."
    elif any(event["kind"] == "rollback" for event in events):
        caption += " No step that was kept was skipped (the notes tell of the others)."
    else:
        caption += " No step was skipped."
    if lost:
        caption += f" Log lines without a finite norm: {lost} (gaps)."
    lines = [Line("", *xy([(s, v if v else None) for s, v in points]), charts.PINK, band=True)]
    svg = small("grad", lines, y_label="gradient norm", log_y=True, marks=skipped)
    return Figure("Gradient norm", caption, svg, "third")


def speed(events: Sequence[Event], what: str = "Frames of codes learned from in a second.") -> Figure:
    """Frames a second, and what the log says of time and memory."""
    points = curve(events, "train", "frames_per_second")
    if not points:
        return Figure("Speed", "Not logged.", size="third")
    svg = small("speed", [Line("", *xy(points), charts.AMBER, band=True)], y_label="frames/s")
    return Figure("Speed", what + _pace(events), svg, "third")


def _pace(events: Sequence[Event]) -> str:
    """What the last line of the log says about the steps' time and memory."""
    last = latest(events, "train") or {}
    said = []
    if last.get("seconds_p50") is not None and last.get("seconds_p99") is not None:
        said.append(f"half of the steps took up to {1000 * last['seconds_p50']:.0f} ms")
        said.append(f"99 % up to {1000 * last['seconds_p99']:.0f} ms")
    if last.get("data_wait") is not None:
        said.append(f"{last['data_wait']:.1%} of the time was waited for data")
    if last.get("mfu") is not None:
        said.append(f"{last['mfu']:.1%} of the device's rate was used (MFU)")
    if last.get("peak_bytes"):
        said.append(f"peak memory {last['peak_bytes'] / 1e9:.2f} GB")
    return f" At the end: {', '.join(said)}." if said else ""


def other_measures(events: Sequence[Event], drawn: Set[str] = frozenset()) -> list[Figure]:
    """Whatever else a validation logged as one number (other families log other measures)."""
    valid = [event for event in events if event["kind"] == "valid"]
    known = KNOWN_VALID | drawn
    names = sorted({k for event in valid for k, v in event.items() if k not in known and isinstance(v, int | float)})
    figures = []
    for number, name in enumerate(names[:12]):
        lines = both_weights(events, name) or [Line("", *xy(curve(events, "valid", name)), charts.BLUE)]
        svg = small(f"other{number}", lines, y_label=name.replace("_", " "))
        figures.append(Figure(name.replace("_", " "), "As logged by the validation.", svg, "third"))
    return figures


def _by_book(events: Sequence[Event]) -> Figure:
    title = "Where the model gains"
    weights = used_weights(events)
    found = (latest(events, "valid", weights=weights) or {}).get("ce_K")
    if not found:
        return Figure(title, "Not logged: no validation measured the codebooks apart.")
    baseline = latest(events, "baseline") or {}
    books = range(1, len(found) + 1)
    rows = [Line("model", books, xy(list(enumerate(found)))[1], charts.BLUE)]
    for name, dashes in (("bigram", "--"), ("unigram", ":")):
        if baseline.get(f"{name}_ce_K"):
            rows.append(Line(name, books, baseline[f"{name}_ce_K"], charts.MUTED, dashes))
    caption = f"Held-out cross entropy by codebook at the last validation ({weights}), beside the baselines."
    return Figure(title, caption, charts.by_book("books", rows, y_label="nats per code"))


def _cross_entropy(events: Sequence[Event]) -> Figure:
    title = "Cross entropy per codebook"
    weights = used_weights(events)
    books = per_book(curve(events, "valid", "ce_K", weights=weights))
    if not books:
        return Figure(title, "Not logged.")
    baseline = latest(events, "baseline") or {}
    panels = []
    for book, points in enumerate(books):
        levels = [
            Level("", baseline[key][book], charts.MUTED, dashes)
            for key, dashes in (("unigram_ce_K", ":"), ("bigram_ce_K", "--"))
            if baseline.get(key)
        ]
        panels.append(Panel(f"Book {book + 1}", [Line("", *xy(points), charts.BLUE)], levels))
    caption = "Nats per code on held-out windows; book 1 is the coarsest. Under the dashed line is learned structure."
    if not baseline:
        caption += " No baseline was logged."
    legend = [(f"model ({weights})", "--blue", "solid")]
    if baseline:
        legend += [("bigram baseline", "--muted", "dashed"), ("unigram baseline", "--muted", "dotted")]
    return Figure(title, caption, charts.small_multiples("ce", panels, y_label="nats"), "wide", legend)


def _output_entropy(events: Sequence[Event]) -> Figure:
    title = "Output entropy per codebook"
    weights = used_weights(events)
    books = per_book(curve(events, "valid", "entropy_K", weights=weights))
    if not books:
        return Figure(title, "Not logged.")
    errors = per_book(curve(events, "valid", "ce_K", weights=weights))
    data = (latest(events, "baseline") or {}).get("data_entropy_K")
    panels = []
    for book, points in enumerate(books):
        lines = [Line("", *xy(points), charts.VERMILION)]
        if errors:
            lines.insert(0, Line("", *xy(errors[book]), charts.BLUE, width=0.9))
        levels = [Level("", data[book], charts.GREEN, "--")] if data else []
        panels.append(Panel(f"Book {book + 1}", lines, levels))
    caption = (
        "How unsure the model is of the next code, against the entropy of the data's own codes. An honest model's "
        "output entropy lies on its cross entropy; far under it, the model is surer than it is right."
    )
    legend = [("output entropy", "--vermilion", "solid")]
    if errors:
        legend.append(("cross entropy", "--blue", "solid"))
    if data:
        legend.append(("entropy of the data", "--green", "dashed"))
    else:
        caption += " The data's own entropy was not logged."
    return Figure(title, caption, charts.small_multiples("entropy", panels, y_label="nats"), "wide", legend)


def small(name: str, lines: Sequence[Line], **rest: Any) -> str:
    """A chart of a third of the page's width."""
    return charts.line_chart(name, lines, width=charts.THIRD, height=2.5, **rest)


def both_weights(events: Sequence[Event], key: str) -> list[Line]:
    """A figure of the validations, of the averaged and the raw weights."""
    lines = []
    for weights, colour, dashes in (("ema", charts.BLUE, "-"), ("raw", charts.AMBER, "-")):
        points = curve(events, "valid", key, weights=weights)
        if points:
            lines.append(Line(weights.upper() if weights == "ema" else weights, *xy(points), colour, dashes))
    return lines


def used_weights(events: Sequence[Event]) -> str:
    """Those that are judged: the averaged ones, if they were."""
    return "ema" if latest(events, "valid", weights="ema") else "raw"


def per_book(points: Points) -> list[Points]:
    """A curve of vectors as one curve a codebook."""
    books = max((len(value) for _, value in points if value), default=0)
    return [[(step, value[book]) for step, value in points if value] for book in range(books)]


def xy(points: Points) -> tuple[list[float], list[float]]:
    """Steps and values; what was not finite (null in the log) is a gap."""
    return [float(step) for step, _ in points], [math.nan if value is None else float(value) for _, value in points]


def mean(values: Sequence[float | None] | None) -> float:
    finite = [value for value in values or [] if value is not None]
    return sum(finite) / len(finite) if finite else math.nan

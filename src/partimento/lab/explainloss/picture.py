"""The small picture of an explanation: of codes the loss between its floors, of sound what it is made of over time."""

from __future__ import annotations

from partimento.lab import charts
from partimento.lab.charts import Level, Line
from partimento.lab.explainloss.composed import NAMES, compose
from partimento.lab.explainloss.floors import mean
from partimento.lab.explainloss.judged import standing_of
from partimento.lab.explainloss.record import Record
from partimento.lab.figures import Figure, used_weights, xy
from partimento.lab.verdict import SOUND
from partimento.runs.events import curve

COLOURS = (charts.BLUE, charts.AMBER, charts.GREEN, charts.PINK, charts.VERMILION, charts.MUTED)


def picture(record: Record) -> Figure:
    return _made_of(record) if record.run.record["family"] in SOUND else _between_floors(record)


def _between_floors(record: Record) -> Figure:
    title = "The loss between its floors"
    weights, lines = used_weights(record.events), []
    for label, kind, where, colour in (
        ("training", "train", {}, charts.BLUE),
        (f"held-out ({weights})", "valid", {"weights": weights}, charts.VERMILION),
    ):
        points = [(step, mean(ce_K or ())) for step, ce_K in curve(record.events, kind, "ce_K", **where)]
        if any(value is not None for _, value in points):
            lines.append(Line(label, *xy(points), colour, band=kind == "train"))
    if not lines:
        return Figure(title, "No cross entropy by book was logged, so there is nothing to draw.")
    floors = standing_of(record).mean
    named = (("guess", floors.random, "-"), ("unigram", floors.unigram, ":"), ("bigram", floors.bigram, "--"))
    levels = [Level(name, value, charts.MUTED, dashes) for name, value, dashes in named if value is not None]
    caption = "Plain cross entropy, mean over the books: without EOS, weights, smoothing or z-loss."
    if not levels:
        caption += " No floor was recorded."
    return Figure(title, caption, charts.line_chart("floors", lines, levels=levels, y_label="nats per code"))


def _made_of(record: Record) -> Figure:
    title = "What the loss is made of"
    composed = [compose(record, event) for event in record.events if event["kind"] == "train"]
    shares: dict[str, list[tuple[int, float | None]]] = {}
    for one in composed:
        for term in one.terms if one is not None else ():
            shares.setdefault(term.name, []).append(
                (one.step if one else 0, None if term.share is None else 100 * term.share)
            )
    lines = [
        Line(NAMES[name].partition(" (")[0], *xy(points), colour)
        for (name, points), colour in zip(shares.items(), COLOURS, strict=False)
    ]
    if not lines:
        return Figure(title, "No distance was logged, so there is nothing to draw.")
    caption = "Share of each part, with its weight, in the training loss. It says what the number is, not who is heard."
    svg = charts.line_chart("made-of", lines, y_label="% of the loss", at_least=(0.0, 100.0))
    return Figure(title, caption, svg)

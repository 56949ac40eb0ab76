"""The curves of what was played during training, against the same figures of the data's own held-out windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from partimento.lab import charts
from partimento.lab.charts import Level, Line, Panel
from partimento.lab.demotable import number
from partimento.lab.figures import Figure, mean, xy
from partimento.lab.verdict import latest
from partimento.runs.events import Event, curve

COLOURS = (charts.PINK, charts.AMBER, charts.GREEN, charts.VERMILION)
DASHES = ("-", "--", "-.")
THICK = 2.6  # the line of the data
TITLE = "What was played, in figures"
CURVES = (
    ("entropy", 1, "Entropy of what was played", "nats per code",
     "Of the codes' own frequencies in an item, mean over the codebooks. Far under the data, the model plays few codes "
     "over and over; above it, it plays at random."),
    ("coverage", 100, "Codes that are used", "% of all codes",
     "Share of the codes that an item uses at least once, mean over the codebooks."),
    ("repetition", 100, "Repetition", "% of the n-grams",
     "Share of the runs of 8 codes that were there before in the same item, mean over the codebooks: 100 % is a loop."),
    ("silence", 100, "Silence", "% of the time", "Share of the sound under -60 dB of full scale."),
)  # fmt: skip


@dataclass(frozen=True)
class Played:
    """One way of playing, as `demo_figures` log it, and how it is drawn."""

    weights: str
    temperature: float
    guidance: float
    told: bool
    label: str
    colour: str
    dashes: str

    def points(self, events: Sequence[Event], name: str) -> list[tuple[int, Any]]:
        where = {"weights": self.weights, "temperature": self.temperature, "guidance": self.guidance}
        return curve(events, "demo_figures", name, told=self.told, **where)

    def line(self, events: Sequence[Event], name: str, scale: float = 1, label: str | None = None) -> Line:
        points = [(step, _scaled(value, scale)) for step, value in self.points(events, name)]
        thin = self.dashes == ":"
        label = self.label if label is None else label
        return Line(label, *xy(points), self.colour, self.dashes, width=0.9 if thin else 1.6)


def played(events: Sequence[Event]) -> list[Figure]:
    """One figure for each measure, the entropy also by codebook; what was not logged is said."""
    ways = _ways(events)
    if not ways:
        return [Figure(TITLE, "Not logged: no demos were made, or by a version that did not log their figures.")]
    figures = [_curve(events, ways, *described) for described in CURVES]
    figures += [_model_entropy(events, ways), _by_book(events, ways)]
    return [*figures, *_book_curves(events, ways)]


def _ways(events: Sequence[Event]) -> list[Played]:
    """Averaged weights at every temperature and guidance, then raw ones. What was told something, if anything was: what
    was told nothing cannot be compared over guidances."""
    keys = set()
    for event in events:
        if event["kind"] == "demo_figures":
            temperature, guidance = number(event.get("temperature")), number(event.get("guidance"))
            if temperature is not None and guidance is not None and event.get("weights") in ("ema", "raw"):
                keys.add((event["weights"], temperature, guidance, event.get("told") is True))
    told = any(key[3] for key in keys)
    keys = {key for key in keys if key[3] == told}
    temperatures, guidances = sorted({key[1] for key in keys}), sorted({key[2] for key in keys})
    averaged = any(key[0] == "ema" for key in keys)
    ways = []
    for weights, temperature, guidance, _ in sorted(keys):
        beside = averaged and weights == "raw"
        if beside and guidance != guidances[0]:
            continue  # one line of raw weights is enough to see whether averaging makes a difference
        label = f"T {temperature:g}" + (f" · g {guidance:g}" if len(guidances) > 1 else "") + (" raw" if beside else "")
        colour = COLOURS[temperatures.index(temperature) % len(COLOURS)]
        dashes = ":" if beside else DASHES[guidances.index(guidance) % len(DASHES)]
        ways.append(Played(weights, temperature, guidance, told, label, colour, dashes))
    return ways


def _curve(
    events: Sequence[Event], ways: Sequence[Played], name: str, scale: float, title: str, unit: str, caption: str
) -> Figure:
    lines = [line for way in ways if _any(line := way.line(events, name, scale))]
    if not lines:
        return Figure(title, f"Not recorded: no demo has a figure for {name}.")
    data = [(step, _scaled(value, scale)) for step, value in curve(events, "demo_data", name)]
    values = {value for _, value in data if value is not None}
    levels = [Level("data", value, charts.MUTED, "-", THICK) for value in values if len(values) == 1]
    if values:
        if not levels:  # the demos became longer or shorter in between
            lines.insert(0, Line("data", *xy(data), charts.MUTED, width=THICK))
        caption += f" Data: {_windows(events)}."
    else:
        caption += " The data's own value was not recorded."
    return Figure(
        title, caption, charts.line_chart(f"played-{name}", lines, levels=levels, y_label=unit, at_least=(0, 1))
    )


def _model_entropy(events: Sequence[Event], ways: Sequence[Played]) -> Figure:
    title = "How unsure the model was"
    lines = [line for way in ways if _any(line := way.line(events, "model_entropy"))]
    if not lines:
        return Figure(title, "Not recorded: no demo has the entropy of what it was drawn from.")
    weights = "ema" if latest(events, "valid", weights="ema") else "raw"
    held_out = [(step, mean(value)) for step, value in curve(events, "valid", "entropy_K", weights=weights)]
    caption = "Mean entropy of the distributions that codes were drawn from (at temperature 1, guided)."
    if held_out:
        lines.insert(0, Line("held out", *xy(held_out), charts.MUTED, width=THICK))
        caption += (
            " Held out: the same on real music. Under it, the model has played itself to where it is sure; above, to "
            "where it is lost."
        )
    return Figure(title, caption, charts.line_chart("played-model", lines, y_label="nats per code"))


def _by_book(events: Sequence[Event], ways: Sequence[Played]) -> Figure:
    """The newest demos: every temperature at the lowest guidance."""
    title = "Entropy by codebook"
    lowest = min(way.guidance for way in ways)
    rows = []
    data = (latest(events, "demo_data") or {}).get("entropy_K")
    if isinstance(data, list):
        rows.append(Line("data", range(1, len(data) + 1), _values(data), charts.MUTED, width=THICK))
    step = None
    for way in ways:
        points = [(at, value) for at, value in way.points(events, "entropy_K") if isinstance(value, list)]
        if points and way.guidance == lowest and way.dashes != ":":
            step, values = points[-1]
            rows.append(Line(f"T {way.temperature:g}", range(1, len(values) + 1), _values(values), way.colour))
    if step is None:
        return Figure(title, "Not recorded: no demo has the entropy of its codes.")
    caption = f"The demos of step {step:,}, by codebook, coarse to fine" + (" beside the data." if data else ".")
    return Figure(title, caption, charts.by_book("played-books", rows, y_label="nats per code"))


def _book_curves(events: Sequence[Event], ways: Sequence[Played]) -> Iterator[Figure]:
    """Over training, at temperature 1 (or the highest) and the lowest guidance. Nothing where there is but one step."""
    lowest = min(way.guidance for way in ways)
    main = [way for way in ways if way.guidance == lowest and way.dashes != ":"]
    way = next((way for way in main if way.temperature == 1), main[-1])
    points = [(step, value) for step, value in way.points(events, "entropy_K") if isinstance(value, list)]
    if len(points) < 2:
        return
    data = [(step, value) for step, value in curve(events, "demo_data", "entropy_K") if isinstance(value, list)]
    panels = []
    for book in range(max(len(value) for _, value in points)):
        lines = [Line("", *xy(_of_book(points, book)), way.colour)]
        if any(value is not None for _, value in _of_book(data, book)):
            lines.insert(0, Line("", *xy(_of_book(data, book)), charts.MUTED, width=THICK))
        panels.append(Panel(f"Book {book + 1}", lines))
    legend = [(f"{way.label} ({way.weights})", charts.variable(way.colour), "solid")]
    caption = f"Entropy of the codes that were played at temperature {way.temperature:g}, for each codebook."
    if data:
        legend.append(("data", "--muted", "solid"))
    svg = charts.small_multiples("played-book", panels, y_label="nats")
    yield Figure("Entropy of what was played, per codebook", caption, svg, "wide", legend)


def _of_book(points: Sequence[tuple[int, Any]], book: int) -> list[tuple[int, float | None]]:
    return [(step, number(value[book])) for step, value in points if book < len(value)]


def _windows(events: Sequence[Event]) -> str:
    count = number((latest(events, "demo_data") or {}).get("items"))
    return "held-out windows of the same length" if count is None else f"{count:g} held-out windows of the same length"


def _values(values: Sequence[Any]) -> list[float]:
    return xy([(0, number(value)) for value in values])[1]


def _scaled(value: Any, scale: float) -> float | None:
    found = number(value)
    return None if found is None else scale * found


def _any(line: Line) -> bool:
    return any(y == y for y in line.y)

"""The figures of the families that make sound: distances, who pulls how hard, and what the adversary thinks.

From the events of a run alone, as `lab.figures`, whose charts of rate and speed they share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from partimento.lab import charts
from partimento.lab.charts import Level, Line, Panel
from partimento.lab.figures import Figure, both_weights, other_measures, per_book, rate, small, speed, used_weights, xy
from partimento.lab.verdict import latest
from partimento.runs.events import Event, curve

DISTANCES = {
    "mel7": ("Distance in training: mel", "7-scale mel distance", "Of the crops, before the step."),
    "stft": ("Distance in training: STFT", "log and linear magnitudes", "Of the crops, before the step."),
    "wave": ("Distance in training: samples", "mean absolute error", "Of the crops; the only one that hears phase."),
    "si_sdr": ("Distance in training: SI-SDR", "negative SI-SDR, dB", "Of the crops, before the step."),
    "commitment": ("Commitment", "distance of latents to their codes", "What the quantizer leaves over."),
}
PULLS = {
    "mel": charts.BLUE,
    "stft": charts.GREEN,
    "wave": charts.AMBER,
    "si_sdr": charts.MUTED,
    "adversarial": charts.VERMILION,
    "features": charts.PINK,
}
NORMS = (("grad_norm", "network", charts.BLUE), ("adversary_grad_norm", "adversary", charts.PINK))
DRAWN = {"mel7", "si_sdr"}  # figures of a validation with a chart of their own
CONFUSED = 0.5  # loss of a discriminator that says 0.5 of everything, and accuracy of one that guesses
WINNING = 0.1  # its loss, under which it has won


def learning(events: Sequence[Event]) -> list[Figure]:
    """What is judged by, what is trained on, and how fast it goes."""
    return [
        _held_out(events),
        _ratio(events),
        *_held_out_by(events),
        *(figure for name in DISTANCES if (figure := _distance(events, name)) is not None),
        rate(events),
        speed(events, "Frames (hundredths of a second, where there are no codes) learned from in a second."),
        *other_measures(events, DRAWN),
    ]


def players(events: Sequence[Event], config: Mapping[str, Any]) -> list[Figure]:
    """Who pulls how hard, the gradient norms, and the adversary's scores, where there is one."""
    found = [_pulls(events), _norms(events)]
    if all(curve(events, "train", key) for key in ("score_real_S", "score_fake_S")):
        found += [_accuracy(events), _loss(events), _scores(events, names(config))]
    return found


def books(events: Sequence[Event], cardinality: int | None) -> list[Figure]:
    """How much each codebook of a codec is used, over the training."""
    weights = used_weights(events)
    entropies = per_book(curve(events, "valid", "book_entropy_bits_K", weights=weights))
    used = per_book(curve(events, "valid", "book_used_K", weights=weights))
    if not entropies:
        return []
    most = [Level("", math.log2(cardinality), charts.MUTED, ":")] if cardinality else []
    panels = [
        Panel(f"Book {number + 1}", [Line("", *xy(points), charts.BLUE)], most)
        for number, points in enumerate(entropies)
    ]
    shares = [f"{100 * points[-1][1]:.0f} %" for points in used if points]
    caption = "Bits of a code on held-out recordings; the dotted line is a book whose codes are all as frequent."
    if shares:
        caption += f" Codes that occurred at all, book by book: {', '.join(shares)}."
    legend = [("entropy", "--blue", "solid"), ("all codes alike", "--muted", "dotted")]
    svg = charts.small_multiples("usage", panels, y_label="bits")
    return [Figure("Use of the codebooks", caption, svg, "wide", legend)]


def alarms(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The alarms of the run, of any family: one row a kind, in the order in which they were first raised."""
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["kind"] == "alarm":
            row = rows.setdefault(
                str(event.get("alarm")),
                {"name": event.get("alarm"), "steps": [], "text": event.get("text"), "remedy": event.get("remedy")},
            )
            row["steps"] = sorted({*row["steps"], event["step"]})
    return list(rows.values())


def names(config: Mapping[str, Any]) -> list[str]:
    """Of the discriminators that a configuration describes, in the order of their scores."""
    adversary = config.get("adversary", {})
    kinds = (("period", "periods"), ("rate", "rates"), ("window", "windows"))
    return [f"{kind} {size}" for kind, key in kinds for size in adversary.get(key, [])]


def _held_out(events: Sequence[Event]) -> Figure:
    title = "Held-out mel distance"
    lines = both_weights(events, "mel7")
    if not lines:
        return Figure(title, "Not logged: no validation measured it.")
    baseline = (latest(events, "baseline") or {}).get("input_mel7")
    levels = [] if baseline is None else [Level("input", baseline)]
    caption = "7-scale mel distance to what was recorded, lower is better."
    if levels:
        caption += " The dashed line is the input as it is: above it, the restorer does harm."
    return Figure(title, caption, charts.line_chart("mel7", lines, levels=levels, y_label="mel distance"))


def _ratio(events: Sequence[Event]) -> Figure:
    title = "Held-out SI-SDR"
    lines = both_weights(events, "si_sdr")
    if not lines:
        return Figure(title, "Not logged: no validation measured it.")
    baseline = (latest(events, "baseline") or {}).get("input_si_sdr")
    levels = [] if baseline is None else [Level("input", baseline)]
    caption = "Median in dB, higher is better. It hears phase, which mel does not: what differs in phase alone is low."
    return Figure(title, caption, charts.line_chart("ratio", lines, levels=levels, y_label="dB"))


def _held_out_by(events: Sequence[Event]) -> list[Figure]:
    """The distance of the last validation's weights by kind of recording, or by shift."""
    weights, baseline = used_weights(events), latest(events, "baseline") or {}
    found = []
    for key, title in (("mel7_by_kind", "by kind of recording"), ("mel7_by_semitones", "by shift in semitones")):
        points = [(step, value) for step, value in curve(events, "valid", key, weights=weights) if value]
        members = list(points[-1][1]) if points else []
        if not members:
            continue
        panels = []
        for member in members:
            line = Line("", *xy([(step, value.get(member)) for step, value in points]), charts.BLUE)
            floor = (baseline.get(f"input_{key}") or {}).get(member)
            panels.append(Panel(member, [line], [] if floor is None else [Level("", floor)]))
        legend = [(f"made ({weights})", "--blue", "solid")]
        if baseline.get(f"input_{key}"):
            legend.append(("input as it is", "--muted", "dashed"))
        svg = charts.small_multiples(key, panels, y_label="mel distance")
        found.append(Figure(f"Held-out mel distance {title}", "As above, apart.", svg, "wide", legend))
    return found


def _distance(events: Sequence[Event], name: str) -> Figure | None:
    points = curve(events, "train", name)
    if not any(value is not None for _, value in points):
        return None
    title, y_label, caption = DISTANCES[name]
    svg = small(name, [Line("", *xy(points), charts.BLUE, band=True)], y_label=y_label)
    return Figure(title, caption, svg, "third")


def _pulls(events: Sequence[Event]) -> Figure:
    title = "Who pulls how hard"
    lines = []
    for part, colour in PULLS.items():
        # Zero is no place on a log scale: an adversary that does not play yet, or is not heard.
        points = [(step, value or None) for step, value in curve(events, "train", f"pull_{part}")]
        if any(value is not None for _, value in points):
            lines.append(Line(part.replace("_", "-"), *xy(points), colour, band=True))
    if not lines:
        return Figure(title, "Not logged.")
    caption = (
        "Norm of the gradient of each part of the loss at the wave, with its weight, mean over the items. A part that "
        "lies far under the others is not heard."
    )
    return Figure(title, caption, charts.line_chart("pulls", lines, y_label="gradient at the wave", log_y=True))


def _norms(events: Sequence[Event]) -> Figure:
    title = "Gradient norms"
    lines = []
    for key, label, colour in (
        ("grad_norm", "network", charts.BLUE),
        ("adversary_grad_norm", "adversary", charts.PINK),
    ):
        points = [(step, value or None) for step, value in curve(events, "train", key)]
        if any(value is not None for _, value in points):
            lines.append(Line(label, *xy(points), colour, band=True))
    if not lines:
        return Figure(title, "Not logged.")
    caption = "Global norm of all weights before clipping, of each player; the pale band is the range of the readings."
    svg = charts.line_chart("norms", lines, y_label="gradient norm", log_y=True, marks=_skips(events))
    skipped = [(latest(events, "train") or {}).get(key) or 0 for key in ("skipped", "adversary_skipped")]
    if any(skipped):
        caption += f" Skipped steps: {skipped[0]:,} of the network, {skipped[1]:,} of the adversary (marks)."
    return Figure(title, caption, svg)


def _skips(events: Sequence[Event]) -> list[float]:
    """Steps at whose reading more steps were skipped than before."""
    found: set[int] = set()
    for key in ("skipped", "adversary_skipped"):
        before = 0
        for step, count in curve(events, "train", key):
            if count is not None:
                found |= {step} if count > before else set()
                before = count
    return [float(step) for step in sorted(found)]


def _accuracy(events: Sequence[Event]) -> Figure:
    lines = [
        Line(label, *xy(curve(events, "train", key)), colour, band=True)
        for key, label, colour in (
            ("accuracy_real", "recordings", charts.BLUE),
            ("accuracy_fake", "made", charts.VERMILION),
        )
    ]
    svg = charts.line_chart(
        "accuracy", lines, levels=[Level("guessing", CONFUSED)], y_label="share judged right", at_least=(0.0, 1.0)
    )
    caption = "Of the adversary. Both near 1 for long: it has won, and has nothing to teach. At one half it guesses."
    return Figure("Accuracy of the adversary", caption, svg)


def _loss(events: Sequence[Event]) -> Figure:
    members = max(len(event.get("score_real_S") or []) for event in events if event["kind"] == "train")
    points = curve(events, "train", "adversary_loss")
    each = [(step, None if value is None else value / members) for step, value in points]
    levels = [Level("guessing", CONFUSED), Level("won", WINNING, charts.MUTED, ":")]
    svg = charts.line_chart("adversary", [Line("", *xy(each), charts.PINK, band=True)], levels=levels, y_label="loss")
    caption = f"Mean over its {members} discriminators, which a sum would hide. Under the dotted line it has won."
    return Figure("Loss of the adversary", caption, svg)


def _scores(events: Sequence[Event], known: Sequence[str]) -> Figure:
    real, fake = (per_book(curve(events, "train", key)) for key in ("score_real_S", "score_fake_S"))
    panels = []
    for number, (one, other) in enumerate(zip(real, fake, strict=False)):
        lines = [Line("", *xy(one), charts.BLUE), Line("", *xy(other), charts.VERMILION)]
        title = known[number] if len(known) == len(real) else f"Discriminator {number + 1}"
        panels.append(Panel(title, lines, [Level("", CONFUSED)]))
    caption = (
        "Mean score of each discriminator, which is to say 1 of recordings and 0 of what was made. Apart, but far from "
        "both, is a game that goes on; where what was made lies above the recordings, labels are swapped."
    )
    legend = [("recordings", "--blue", "solid"), ("made", "--vermilion", "solid"), ("border", "--muted", "dashed")]
    return Figure("Scores", caption, charts.small_multiples("scores", panels, y_label="score"), "wide", legend)

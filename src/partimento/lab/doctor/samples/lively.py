"""Collapse, loops, silence and ends of what was played, against held-out windows of the same length."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from partimento.lab import charts
from partimento.lab.charts import Level, Line
from partimento.lab.doctor import pictures
from partimento.lab.doctor.data import together
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.pictures import Bar
from partimento.lab.doctor.samples.played import Demos, Way
from partimento.lab.explainloss.judged import standing_of

COLLAPSED, POOR = 0.5, 0.7  # of the data's entropy
COLD = 0.9  # a temperature under which entropy falls by itself
WARM = 0.3  # a temperature under which anything is nearly greedy
LOOPS, MORE = 0.35, 0.25  # share of the n-grams that return, and by how much more than in the data
STUCK, LIVELY = 0.4, 0.8  # of the data's entropy, of greedy playing and of the usual one
SILENT, LONGER = 0.5, 0.3  # share of the time, and by how much more than in the data
LEARNED = 0.98  # of what counting reaches on held-out codes, under which a model is no young one any more
AT_ONCE = 0.1  # of the length that was asked for
DRAWN = 9  # bars at most
NEVER = 2.0  # times the length of nearly all clips, after which something should have ended


def examine(patient: Patient, demos: Demos) -> Examined:
    parts = [_entropy(demos), _repetition(demos), _silence(demos), _ends(patient, demos), _greedy(patient, demos)]
    return together(parts)


def _entropy(demos: Demos) -> Examined:
    way, data = demos.usual, demos.of_data("entropy")
    value = way.figure("entropy")
    if value is None or not data:
        return Examined(missing=(f"The entropy of what was played: {_without(demos, 'entropy')}.",))
    if (short := _too_short(way, data)) is not None:
        return Examined(missing=(f"The entropy of what was played: {short}.",))
    ratio, loops, usual = value / data, way.figure("repetition"), demos.of_data("repetition")
    said = f"Of {demos.step} ({way.label}) the codes have an entropy of {value:.2f} nats, held-out music {data:.2f}"
    if way.temperature >= COLD:
        confidence = 0.9 if ratio < COLLAPSED else 0.6 if ratio < POOR else 0.0
    elif way.temperature >= WARM:
        confidence = 0.7 if ratio < COLLAPSED * way.temperature else 0.0
    else:  # nothing but the likeliest codes was heard
        looping = loops is not None and usual is not None and loops >= max(LOOPS, usual + MORE)
        confidence = 0.7 if ratio < COLLAPSED else 0.55 if looping else 0.0
    if not confidence:
        return Examined(fine=(f"No collapse: {said}.",))
    rows = [Bar("held-out music", data), Bar("played", value, odd=True)]
    chart = _by_book(demos, way) or pictures.bars("entropy, nats a code", rows)
    evidence = [Evidence(f"{said}.", chart)]
    if way.temperature < COLD:
        evidence.append(Evidence(f"Nothing was played at more than temperature {way.temperature:g}."))
    if (model := way.by_book("model_entropy")) is not None:
        evidence.append(Evidence(f"The model itself was unsure by {sum(model) / len(model):.2f} nats where it drew."))
    return Examined((Finding("entropy_collapse", confidence, tuple(evidence), way.label),))


def _repetition(demos: Demos) -> Examined:
    way, data = demos.usual, demos.of_data("repetition")
    value = way.figure("repetition")
    if value is None or data is None:
        return Examined(missing=(f"Repetition in what was played: {_without(demos, 'repetition')}.",))
    said = (
        f"{100 * value:.0f} % of the n-grams of {demos.step} ({way.label}) return, in held-out music {100 * data:.1f} %"
    )
    if value < LOOPS or value < data + MORE:
        return Examined(fine=(f"No loops: {said}.",))
    confidence = 0.4 if way.temperature < WARM else min(0.9, 0.6 + 0.5 * (value - data - MORE))
    rows = [Bar("held-out music", 100 * data), Bar("played", 100 * value, odd=True)]
    chart = _ladder(demos, "repetition") or pictures.bars("n-grams that return", rows, unit=" %")
    evidence = (Evidence(f"{said}.", chart),)
    return Examined((Finding("repetition", round(confidence, 2), evidence, way.label),))


def _silence(demos: Demos) -> Examined:
    way, data = demos.usual, demos.of_data("silence") or 0.0
    value, peak = way.figure("silence"), way.figure("peak")
    if value is None:
        return Examined(missing=("Silence in what was played: no demo has a figure for it.",))
    said = f"{100 * value:.0f} % of the time of {demos.step} ({way.label}) is silent"
    said += f", of held-out music {100 * data:.0f} %" if demos.of_data("silence") is not None else ""
    if value < max(SILENT if data < SILENT / 2 else 0.0, data + LONGER):
        return Examined(fine=(f"The demos sound: {said}.",))
    confidence = min(0.95, 0.6 + 0.35 * (value - data))
    loud = "" if peak is None else f"; the loudest sample is at {peak:.3g} of full scale"
    rows = [Bar("held-out music", 100 * data)] if demos.of_data("silence") is not None else []
    played = [(item, item["metrics"].get("silence")) for item in way.items]
    rows += [Bar(Path(str(item["file"])).name, 100 * share, odd=True) for item, share in played if share is not None]
    evidence = Evidence(f"{said}{loud}.", pictures.bars("time that is silent", rows[:DRAWN], unit=" %"))
    return Examined((Finding("silent_samples", round(confidence, 2), (evidence,), way.label),))


def _ends(patient: Patient, demos: Demos) -> Examined:
    """Ends come at once, or never although all clips are much shorter than what was played."""
    way, pack, config = demos.usual, patient.pack, patient.config
    ended = [item for item in way.items if item.get("ended") is True]
    lengths = [float(item["seconds"]) for item in way.items if isinstance(item.get("seconds"), int | float)]
    asked = getattr(getattr(config, "demo", None), "seconds", None)
    if not lengths or asked is None:
        return Examined(missing=("Whether the demos end as they should: their lengths are not recorded.",))
    least = None if pack is None else pack.spec.seconds(int(np.quantile(pack.clips.frames, 0.1)))
    moment = AT_ONCE * asked if least is None else min(AT_ONCE * asked, least)  # a pack of short sounds ends early
    short = [length for length in lengths if length < moment]
    if ended and len(short) > len(way.items) / 2:
        said = f"{len(short)} of {len(way.items)} demos ({way.label}) end within {max(short):.2g} s of {asked:g} s"
        clips = "how long clips are is not known" if least is None else f"90 % of the clips have {least:.2g} s or more"
        evidence = Evidence(f"{said}; {clips}.", _lengths(Bar("asked for", asked), lengths))
        return Examined((Finding("wrong_ends", 0.45 if least is None else 0.85, (evidence,), way.label),))
    longest = None if pack is None else pack.spec.seconds(int(np.quantile(pack.clips.frames, 0.95)))
    if longest and not ended and min(lengths) > NEVER * longest and way.temperature >= WARM:
        said = f"No demo of {min(lengths):.1f} s ({way.label}) ended; 95 % of the clips have {longest:.1f} s or less"
        chart = _lengths(Bar("95 % of the clips", longest), lengths)
        return Examined((Finding("wrong_ends", 0.6, (Evidence(f"{said}.", chart),), way.label),))
    return Examined(fine=(f"{len(ended)} of {len(way.items)} demos ended by themselves, none at once.",))


def _lengths(wanted: Bar, lengths: list[float]) -> str | None:
    rows = [Bar(f"demo {number}", length, odd=True) for number, length in enumerate(lengths, 1)]
    return pictures.bars("seconds", [wanted, *rows][:DRAWN])


def _greedy(patient: Patient, demos: Demos) -> Examined:
    """The likeliest code at every place runs into a loop, while drawing plays music."""
    what = "Greedy playing"
    cold, warm = demos.ladder[0], demos.usual
    if cold.temperature > 0 or warm.temperature < COLD:
        return Examined(missing=(f"{what}: not played beside temperature 1.",))
    data, loops = demos.of_data("entropy"), demos.of_data("repetition")
    entropy, usual, repeats = cold.figure("entropy"), warm.figure("entropy"), cold.figure("repetition")
    if not data or loops is None or entropy is None or usual is None or repeats is None:
        return Examined(missing=(f"{what}: {_without(demos, 'entropy')}.",))
    said = (
        f"At temperature 0 {100 * repeats:.0f} % of the n-grams return and the entropy is {entropy:.2f} nats, at "
        f"temperature {warm.temperature:g} it is {usual:.2f}, in held-out music {data:.2f}"
    )
    if repeats < max(LOOPS, loops + MORE):
        return Examined(fine=(f"{what} is lively: {said}.",))
    if usual < LIVELY * data or (warm.figure("repetition") or 0.0) >= max(LOOPS, loops + MORE):
        return Examined()  # no better at the other end of the ladder: that is a collapse, or loops
    learned = _learned(patient)
    told = {
        True: "It is past what counting reaches on held-out codes, so it is not for being young.",
        False: "It is not past what counting reaches on held-out codes, and then the likeliest code is the commonest.",
        None: "Whether the model is past what counting reaches is not recorded.",
    }[learned]
    evidence = (Evidence(f"{said}.", _ladder(demos, "entropy")), Evidence(told))
    # A loop of many codes may be what the music is, without its chances.
    confidence = 0.35 if entropy >= STUCK * data else {True: 0.6, False: 0.4, None: 0.5}[learned]
    return Examined((Finding("greedy_fails", confidence, evidence, cold.label),))


def _learned(patient: Patient) -> bool | None:
    standing = standing_of(patient.record) if patient.record is not None else None
    if standing is None or standing.valid is None or standing.mean.counted is None:
        return None
    return standing.valid < LEARNED * standing.mean.counted


def _too_short(way: Way, data: float) -> str | None:
    """So few frames have no such entropy, whatever plays them."""
    frames = way.frames
    if frames is None or frames >= math.exp(data):
        return None
    return f"the demos ({way.label}) are of {frames:.0f} frames, too few for the {data:.2f} nats of held-out music"


def _without(demos: Demos, name: str) -> str:
    return "the data's own figure is not recorded" if demos.data is None else f"no figure for {name} is recorded"


def _by_book(demos: Demos, way: Way) -> str | None:
    ours, theirs = way.by_book("entropy"), (demos.data or {}).get("entropy_K")
    if ours is None or not isinstance(theirs, list) or None in theirs:
        return None
    rows = [
        Line("held out", range(1, len(theirs) + 1), theirs, charts.MUTED),
        Line("played", range(1, len(ours) + 1), ours, charts.VERMILION),
    ]
    return charts.by_book("doctor-collapse", rows, y_label="nats a code", height=2.0)


def _ladder(demos: Demos, name: str) -> str | None:
    """The figure over the temperatures, the data's own as a level."""
    points = [(way.temperature, value) for way in demos.ladder if (value := way.figure(name)) is not None]
    data = demos.of_data(name)
    if len(points) < 2:
        return None
    x, y = (list(column) for column in zip(*points, strict=True))
    levels = [] if data is None else [Level("held out", data)]
    what = {"entropy": "nats a code", "repetition": "share of the n-grams that return"}[name]
    return charts.line_chart(
        f"doctor-ladder-{name}", [Line("played", x, y, charts.VERMILION)], y_label=what, x_label="temperature",
        levels=levels, height=2.0,
    )  # fmt: skip

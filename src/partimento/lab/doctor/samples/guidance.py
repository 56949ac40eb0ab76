"""Guidance as it was played: with a null condition that was never trained, or one that is another than in training."""

from __future__ import annotations

from collections.abc import Iterator

from partimento.config import DiaConfig, MotConfig, RvqConfig
from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.pictures import Bar
from partimento.lab.doctor.samples.played import Demos, Way

SCALES = {"entropy": None, "coverage": None, "repetition": 0.4, "silence": 0.4}
"""What a difference is measured in: of the data's own figure (None), or in shares of all."""
WORSE, SLIGHTLY = 0.25, 0.1


def examine(patient: Patient, demos: Demos) -> Examined:
    guided = [way for way in demos.ways if way.guidance != 1]
    if not guided:
        return Examined(missing=("What guidance does: nothing was played with guidance.",))
    strengths = ", ".join(f"{strength:g}" for strength in sorted({way.guidance for way in guided}))
    share, trained = _null(patient)
    if share is None:
        return Examined(missing=("What guidance does: whether the null condition was trained is not recorded.",))
    if share == 0 and not trained:
        said = f"{demos.step[0].upper()}{demos.step[1:]} were played with guidance {strengths}; no item of the training"
        rows = [Bar("with their condition", 100.0), Bar("without", 0.0, odd=True)]
        chart = pictures.bars("items of the training", rows, unit=" %")
        untrained = Evidence(f"{said} had the null condition (null share 0).", chart)
        return Examined((Finding("guidance_without_null", 0.9, (untrained,), demos.folder.name),))
    couples = list(_couples(demos))
    if not couples or demos.data is None:
        return Examined(missing=("What guidance does: not played beside guidance 1, or without figures of the data.",))
    judged = [(plain, way, changes) for plain, way in couples if (changes := _changes(demos, plain, way))]
    worse = [row for row in judged if _all_worse(row[2])]
    if not judged or len(worse) <= len(judged) / 2:
        said = f"guidance {strengths} is not worse than guidance 1 by all figures ({len(judged)} compared)"
        return Examined(fine=(f"{said[0].upper()}{said[1:]}; the null share is {share:.2g}.",))
    grave = min(max(row[2].values()) for row in worse)
    evidence = tuple(Evidence(_told(demos, plain, way), _drawn(demos, plain, way)) for plain, way, _ in worse[:3])
    confidence = min(0.8, 0.6 + 0.05 * len(worse) + 0.1 * min(1.0, grave - WORSE))
    last = Evidence(f"Its branch without a condition was trained on {100 * share:.0f} % of the items.")
    return Examined((Finding("null_mismatch", round(confidence, 2), (*evidence, last), worse[0][1].label),))


def _null(patient: Patient) -> tuple[float | None, bool]:
    """(share of the training items without a condition, whether the weights it began with knew that)."""
    told = ((patient.newest.state or {}).get("description") or {}) if patient.newest is not None else {}
    share = told.get("null_share")
    if isinstance(share, int | float):
        return float(share), bool(told.get("null_trained"))
    config = patient.config
    if isinstance(config, RvqConfig | DiaConfig | MotConfig):
        logged = [event["null_share"] for event in patient.log.train if isinstance(event.get("null_share"), float)]
        return max([config.data.null_share, *logged]), not patient.from_scratch
    return None, False


def _couples(demos: Demos) -> Iterator[tuple[Way, Way]]:
    """(guidance 1, another), else played alike."""
    plain = {(way.weights, way.temperature, way.told): way for way in demos.ways if way.guidance == 1}
    for way in demos.ways:
        beside = plain.get((way.weights, way.temperature, way.told))
        if way.guidance > 1 and beside is not None:
            yield beside, way


def _changes(demos: Demos, plain: Way, way: Way) -> dict[str, float]:
    """By figure, how much further from the data's own the guided one is than the other; positive is worse."""
    found = {}
    for name, scale in SCALES.items():
        data, one, other = demos.of_data(name), plain.figure(name), way.figure(name)
        unit = data if scale is None else scale
        if data is not None and one is not None and other is not None and unit:
            found[name] = (abs(other - data) - abs(one - data)) / unit
    return found


def _all_worse(changes: dict[str, float]) -> bool:
    """The entropy and the use of codes are, and nothing is better. (What becomes random does not repeat itself more,
    and silence is often none in both.)"""
    if any(changes.get(name, 0.0) < WORSE for name in ("entropy", "coverage")):
        return False
    return all(change > -SLIGHTLY for change in changes.values())


def _drawn(demos: Demos, plain: Way, way: Way) -> str | None:
    ways = [("held-out music", demos.of_data("entropy"), False), ("guidance 1", plain.figure("entropy"), False)]
    ways.append((f"guidance {way.guidance:g}", way.figure("entropy"), True))
    rows = [Bar(label, value, odd=odd) for label, value, odd in ways if value is not None]
    return pictures.bars(f"entropy at temperature {way.temperature:g}, nats a code", rows)


def _told(demos: Demos, plain: Way, way: Way) -> str:
    said = [
        f"{name} {plain.figure(name):.2f} and {way.figure(name):.2f} (data {demos.of_data(name):.2f})"
        for name in _changes(demos, plain, way)
    ]
    which = f"temperature {way.temperature:g} ({way.weights} weights), guidance 1 and {way.guidance:g}"
    return f"At {which}: {', '.join(said)}."

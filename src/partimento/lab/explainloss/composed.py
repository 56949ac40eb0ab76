"""A line of the log of a run that makes sound, taken apart: which distances, with which weights, who pulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partimento.lab.explainloss.record import Record
from partimento.runs.events import Event
from partimento.waveform.ramp import ramp

NAMES = {
    "mel": "mel distance (7 scales)",
    "stft": "STFT magnitudes",
    "wave": "samples (L1)",
    "si_sdr": "negative SI-SDR, dB",
    "commitment": "commitment to the codes",
    "adversarial": "adversary's opinion",
    "features": "adversary's features",
}
OPINIONS = ("adversarial", "features")
UNHEARD = 0.01  # share of the pulls under which a part is not heard


@dataclass(frozen=True)
class Term:
    """One part of the sum: its value as logged, its weight at that line, their product, and its share of the loss.
    `pull` is the norm of its weighted gradient at the wave. None: not logged, or not known."""

    name: str
    value: float | None
    weight: float | None
    product: float | None
    share: float | None
    pull: float | None
    pull_share: float | None


@dataclass(frozen=True)
class Composed:
    """A line of the log taken apart. `rest` is what the parts leave of the loss."""

    step: int
    loss: float
    terms: Sequence[Term]
    rest: float | None


def compose(record: Record, line: Event) -> Composed | None:
    """None where the line has no finite loss."""
    loss, wanted = line.get("loss"), record.section("loss")
    if loss is None:
        return None
    progress = _progress(record, line["step"])
    found: list[tuple[str, float | None, float | None]] = []
    for name in ("mel", "stft", "wave", "si_sdr"):
        weight, value = wanted.get(name), line.get("mel7" if name == "mel" else name)
        if weight is not None and value is not None:
            found.append((name, value, ramp(weight, progress)))
    if line.get("commitment") is not None:
        frozen = record.section("model").get("freeze_codes")
        found.append(("commitment", line["commitment"], 0.0 if frozen else wanted.get("commit")))
    taken = _taken_in(record, line, wanted)
    for name in OPINIONS:
        if line.get(name) is not None:
            weight = wanted.get(name)
            found.append((name, line[name], None if weight is None or taken is None else taken * weight))
    products = [None if w is None or v is None else w * v for _, v, w in found]
    pulls = [line.get(f"pull_{name}") for name, _, _ in found]
    pulled = sum(pull for pull in pulls if pull is not None)
    terms = [
        Term(
            name,
            value,
            weight,
            product,
            None if product is None or not loss else product / loss,
            pull,
            pull / pulled if pull is not None and pulled else None,
        )
        for (name, value, weight), product, pull in zip(found, products, pulls, strict=True)
    ]
    known = [product for product in products if product is not None]
    return Composed(line["step"], loss, terms, loss - sum(known) if len(known) == len(products) else None)


def _progress(record: Record, step: int) -> float:
    """Of the middle of the steps that a line is the mean of."""
    every, steps = record.section("train").get("log_every") or 1, record.steps or 1
    return max(0.0, step - 1 - (min(every, step) - 1) / 2) / max(1, steps - 1)


def _taken_in(record: Record, line: Event, weights: Mapping[str, Any]) -> float | None:
    """How far the adversary is taken in at a line, in the mean of its steps: what it adds to the loss, as logged. Of
    older runs 0 before it plays and 1 after its warm-up; None in between."""
    if (opinions := line.get("opinions")) is not None:
        whole = sum(weights[name] * line[name] for name in OPINIONS if line.get(name) and weights.get(name))
        return opinions / whole if whole else 0.0
    start = record.section("adversary").get("start")
    every = record.section("train").get("log_every") or 1
    warmup = record.section("optim").get("warmup") or 0
    if start is None or line["step"] <= start:
        return 0.0
    return 1.0 if start == 0 or line["step"] - every >= start + warmup else None


def unheard(composed: Composed | None) -> list[Term]:
    """Parts with a weight whose pull is lost beside the others'."""
    terms = composed.terms if composed else ()
    return [t for t in terms if t.pull_share is not None and t.pull and t.weight and t.pull_share < UNHEARD]


def listed(names: Sequence[str]) -> str:
    return ", ".join(NAMES[name] for name in names)

"""Whether there is enough to learn from: codes for each trained parameter, and how often each was gone through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod

from partimento.lab.doctor import pictures
from partimento.lab.doctor.data.seen import Seen
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.pictures import Bar
from partimento.lab.explainloss import trained
from partimento.lab.explainloss.judged import standing_of
from partimento.lab.verdict import latest

TINY, SMALL = 0.01, 0.1
"""Codes for each trained parameter. Language models are said to want some twenty (Hoffmann et al. 2022); under a tenth
a model of that size can know them by heart, and under a hundredth it has nothing else to do."""
OFTEN, SELDOM = 10.0, 3.0  # epochs
GAP = 0.05  # of the training loss, by which held-out codes cost more
MEANT = re.compile(r"over-?fit|by heart|memori[sz]|one clip|single clip|tiny|few clips", re.IGNORECASE)
"""Words of a hypothesis that say that few data are what is wanted."""


def examine(seen: Seen) -> Examined:
    what = "Whether the data are enough for the model"
    patient = seen.patient
    frames, books = _frames(seen), _books(seen)
    parameters = _parameters(patient)
    if frames is None or not books:
        return Examined(missing=(f"{what}: how much there is to train on is not recorded.",))
    if not parameters:
        return Examined(missing=(f"{what}: how many parameters are trained is not recorded.",))
    codes, epochs = frames * books, trained.epochs(patient.record) if patient.record is not None else None
    ratio = codes / parameters
    said = f"{codes:,} codes to train on, {parameters:,} trained parameters: {ratio:.2g} codes for each"
    if ratio >= SMALL:
        return Examined(fine=(f"The amount of data fits the model: {said}.",))
    evidence = [said + _length(seen, frames) + "."]
    if epochs is not None:
        evidence.append(f"The training clips were gone through {epochs:,.1f} times.")
    costs = _costs(patient)
    gap = None if costs is None else (costs[0] - costs[1]) / costs[1]
    if costs is not None:
        evidence.append(f"A held-out code costs {costs[0]:.2f} nats, one of the last training steps {costs[1]:.2f}.")
    confidence = 0.75 if ratio < TINY else 0.3
    if epochs is not None and epochs >= OFTEN and gap is not None and gap > GAP:
        confidence = 0.9 if ratio < TINY else 0.55
    elif epochs is not None and epochs >= SELDOM and gap is not None and gap <= GAP:
        confidence = min(confidence, 0.4)
        evidence.append("The held-out loss does not suffer from it.")
    elif not patient.from_scratch:
        confidence = min(confidence, 0.4)
        evidence.append("The weights were trained before, so these data need not teach them everything.")
    if (meant := str((patient.run.record if patient.run else {}).get("hypothesis") or "")) and MEANT.search(meant):
        confidence = min(confidence, 0.4)
        evidence.append(f"The hypothesis says that it is meant: “{meant.strip()[:120]}”.")
    chart = pictures.bars("numbers", [Bar("trained parameters", parameters), Bar("codes to train on", codes, odd=True)])
    first, *rest = evidence
    return Examined((Finding("tiny_data", confidence, (Evidence(first, chart), *map(Evidence, rest))),))


def _frames(seen: Seen) -> int | None:
    """Of the clips that are trained on."""
    record = seen.patient.record
    if record is not None and record.train_frames:
        return record.train_frames
    return int(seen.pack.clips.frames[seen.splits[0]].sum()) if seen.pack is not None else None


def _books(seen: Seen) -> int:
    record = seen.patient.record
    if seen.pack is not None:
        return seen.pack.spec.codebooks
    return len(record.cardinalities) if record is not None else 0


def _length(seen: Seen, frames: int) -> str:
    rate = seen.patient.record.frame_rate if seen.patient.record is not None else None
    if rate is None and seen.pack is not None:
        rate = float(seen.pack.spec.frame_rate)
    if rate is None:
        return ""
    seconds = frames / rate
    return f" ({seconds:,.0f} s of music)" if seconds < 600 else f" ({seconds / 3600:,.1f} hours of music)"


def _parameters(patient: Patient) -> int | None:
    """Trained ones: as the log or the record says, else those of the newest checkpoint."""
    if patient.record is not None and (known := trained.counts(patient.record)[0]):
        return known
    part = patient.newest.part("model") if patient.newest is not None else None
    shapes: Mapping[str, tuple[int, ...]] = {} if part is None else part.shapes
    return sum(prod(shape) for shape in shapes.values()) or None


def _costs(patient: Patient) -> tuple[float, float] | None:
    """Nats of a held-out code, and of one of the last line of the log."""
    if patient.record is None or latest(patient.events, "valid") is None:
        return None
    standing = standing_of(patient.record)
    return (standing.valid, standing.train) if standing.valid is not None and standing.train else None

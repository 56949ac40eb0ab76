"""What the training curve and the held-out curve say of one another: memory, and whether they measure the same."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series, series
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.robust import noise
from partimento.lab.explainloss import trained
from partimento.lab.verdict import latest

PAST = 2  # validations after the best one, at least
RISE = 0.01  # share by which the held-out loss is above its best, as in explain-loss
FELL = 0.98  # of the training loss at the best validation: above it, it did not fall
AGAIN = 5.0  # epochs from which clips can be known by heart; under it, a gap is of other music
# By so many nats, and by such a share of the training loss, the two losses of one early moment may differ beyond what
# counting differs between the two sets of clips. Chosen on real runs, whose excess stays under 0.15.
EXCESS, EXCESS_SHARE = 0.25, 0.06
# Epochs up to which nothing is known by heart at the first validation; and up to which nothing came twice, so that the
# later ones tell more: what one of two losses has in it shows only where the model has learned what it hides.
FRESH, ONCE = 2.0, 1.0

FROM_SCRATCH = (
    "That is no failure by itself in a training from scratch: a model that grows surer pays more nats for a code that "
    "it did not expect, long before what it plays gets worse. Listen to the demos of both steps."
)


@dataclass(frozen=True)
class Curves:
    """Held-out and training losses of like kind; `held` of averaged weights where there are any."""

    name: str
    held: Series
    train: Series


def curves(log: Log) -> Curves | None:
    for name, what in (("ce", "loss"), ("mel7", "mel distance")):
        held = series(log.valid(log.weights), name)
        train = log.series(name)
        if name == "ce" and not len(train):
            train = log.series("loss")  # of an older version, which did not log the books
        if len(held) and len(train):
            return Curves(what, held, train)
    return None


def examine(patient: Patient) -> Examined:
    """Overfitting, and losses of other targets, of the log alone."""
    both = curves(patient.log)
    if both is None:
        return Examined(missing=("Overfitting: no validation was logged, and a training loss alone cannot tell.",))
    seen = [_overfitting(patient, both), _other_targets(patient, both)]
    return Examined(
        tuple(one for part in seen for one in part.findings),
        tuple(text for part in seen for text in part.fine),
        tuple(text for part in seen for text in part.missing),
    )


def _overfitting(patient: Patient, both: Curves) -> Examined:
    held, train = both.held, both.train
    if len(held) < 3:
        return Examined(missing=(f"Overfitting: {len(held)} validations are too few to see a rise.",))
    best = int(np.argmin(held.y))
    rise = float(held.y[-1] - held.y[best])
    wander = noise(held.y) if len(held) > 5 else 0.0
    name, step = both.name, held.x[best]
    if rise < RISE * abs(float(held.y[best])) or len(held) - 1 - best < min(PAST, len(held) - 2) or rise < 2 * wander:
        return Examined(fine=(f"The held-out {name} is at its best, or near it: no sign of learning by heart.",))
    rose = f"The held-out {name} was best at step {step:,.0f} ({held.y[best]:.3g}) and has risen to {held.y[-1]:.3g}"
    around = [train.between(begin, end) for begin, end in ((0, step), (step, float(held.x[-1])))]
    if min(map(len, around)) == 0:
        return Examined(missing=("Overfitting: there is no training loss on both sides of the best validation.",))
    few = max(1, min(len(part) for part in around) // 4)
    was, now = (float(np.median(part.y[-few:])) for part in around)
    epochs = trained.epochs(patient.record) if patient.record is not None else None
    seen = None if epochs is None else f"every training clip was gone through {epochs:,.1f} times"
    chart = pictures.curve(
        "overfitting", name, train, others=[("held-out", held)], marks=[float(step)], levels=_floor(patient, name)
    )
    if now > FELL * was:
        text = f"{rose}, and the training {name} did not fall meanwhile ({was:.3g} to {now:.3g}), so it is no memory."
        return Examined((Finding("overfitting", 0.25, (Evidence(text, chart),), f"after step {step:,.0f}"),))
    text = f"{rose}, while the training {name} fell from {was:.3g} to {now:.3g}: {rise + was - now:.3g} further apart."
    told = [Evidence(text, chart)]
    if seen:
        told.append(Evidence(f"{seen[0].upper()}{seen[1:]}, by windows that are drawn anew."))
    if patient.from_scratch:
        told.append(Evidence(FROM_SCRATCH))
    confidence = _confidence(epochs, rise / abs(float(held.y[best])), patient, now)
    if (latest(patient.events, "baseline") or {}).get("train_clips") == 1:
        told.append(Evidence("It trains on one clip, which can only be meant: to see that the model can learn at all."))
        confidence = min(confidence, 0.4)
    return Examined((Finding("overfitting", confidence, tuple(told), f"after step {step:,.0f}"),))


def _confidence(epochs: float | None, rise: float, patient: Patient, now: float) -> float:
    """Rising alone is never a diagnosis. With clips that came again and again it is one; the surer, the more they did,
    and where the training loss is under the entropy of the codes, which no rule reaches without memory."""
    if epochs is not None and epochs < AGAIN:
        return 0.3
    sure = 0.55 if epochs is not None else 0.45
    sure += 0.1 if rise > 5 * RISE else 0.0
    entropy = (latest(patient.events, "baseline") or {}).get("data_entropy_K") or []
    below = bool(entropy) and now < 0.5 * fmean(entropy)
    return round(min(0.95, sure + (0.1 if epochs is not None and epochs > 4 * AGAIN else 0.0) + 0.15 * below), 2)


def _floor(patient: Patient, name: str) -> list[tuple[str, float]]:
    bigram = (latest(patient.events, "baseline") or {}).get("bigram_ce_K") or []
    return [("bigram", fmean(bigram))] if bigram and name == "loss" else []


def _other_targets(patient: Patient, both: Curves) -> Examined:
    """Held-out against training loss of the raw weights, at an early validation, before anything is by heart."""
    log, inflated = patient.log, _inflated(patient)
    if inflated is not None:
        return Examined((inflated,))
    held, train = series(log.valid("raw"), "ce"), log.series("ce")
    if not len(held) or not len(train):
        return Examined(missing=("Whether both losses have the same targets: the log has no plain loss of both.",))
    total = trained.epochs(patient.record) if patient.record is not None else None
    each = None if total is None or not log.step else total / log.step
    place = 0 if each is None else max(0, int((held.x * each <= ONCE).sum()) - 1)
    step = float(held.x[place])
    near = train.between(step - max(20.0, 0.25 * step), step)
    if not len(near) or each is None:
        return Examined(missing=("Whether both losses have the same targets: epochs, or lines near, are missing.",))
    if (epochs := each * step) > FRESH:
        said = f"Whether both losses have the same targets: the first validation came after {epochs:.1f} epochs."
        return Examined(missing=(said,))
    # Where the loss rises, the weights that were validated are worse than those of the lines before.
    level = float(max(near.y[-3:].mean(), near.y[-1], *train.between(step).y[:1]))
    gap = float(held.y[place]) - level
    allowed = _difference(patient)
    excess = gap - allowed
    told = (
        f"At step {step:,.0f}, after {epochs:.2f} epochs, held-out codes cost {held.y[place]:.3f} and training codes "
    )
    told += f"{level:.3f} nats, by the same weights; counting differs by {allowed:.3f} between the two"
    if excess < max(EXCESS, EXCESS_SHARE * level):
        return Examined(fine=(f"{told}: both losses measure the same.",))
    confidence = 0.6 if excess < 2 * max(EXCESS, EXCESS_SHARE * level) else 0.8
    chart = pictures.curve("targets", "loss", train, others=[("held-out", held)])
    text = f"{told}. {excess:.3f} nats are left, and nothing is known by heart so early."
    return Examined((Finding("loss_of_other_targets", confidence, (Evidence(text, chart),), f"step {step:,.0f}"),))


def _difference(patient: Patient) -> float:
    """By how much held-out codes are harder than training codes to a model that counts."""
    baseline = latest(patient.events, "baseline") or {}
    unigram, entropy = baseline.get("unigram_ce_K"), baseline.get("data_entropy_K")
    return max(0.0, fmean(unigram) - fmean(entropy)) if unigram and entropy else 0.0


def _inflated(patient: Patient) -> Finding | None:
    """A logged loss that is a multiple of the plain cross entropy of the same lines: sums that were divided wrongly."""
    config, loss, plain = patient.raw, patient.log.series("loss"), patient.log.series("ce")
    if not len(plain) or len(loss) != len(plain) or config.get("model", {}).get("caption_share"):
        return None
    extra = config.get("loss", {})
    weighted = extra.get("codebook_weights", "equal") != "equal"
    if weighted or extra.get("label_smoothing") or extra.get("z_loss"):
        return None
    ratio = float(np.median(loss.y / np.maximum(plain.y, 1e-9)))
    if ratio < 1.5 or float(np.median(loss.y - plain.y)) < 0.5:  # marks of an end, which are in it too, are few
        return None
    text = f"The logged loss is {ratio:.2f} times the plain cross entropy of the same steps, and nothing is configured "
    chart = pictures.curve("inflated", "loss", loss, others=[("plain", plain)])
    return Finding("loss_of_other_targets", 0.8, (Evidence(f"{text}that would add to it.", chart),))

"""A loss that stands still although the rate does not fall, and what it stands at."""

from __future__ import annotations

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series, series
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.robust import Slope, slope
from partimento.lab.explainloss.floors import Standing
from partimento.lab.explainloss.judged import LEVEL, standing_of
from partimento.lab.verdict import latest

# Half of the highest rate: under it a cosine is past its middle, and a loss that stands is what the schedule wants.
HIGH_RATE = 0.5
# Readings of the part that is looked at. Of fewer than ENOUGH, noise can hide a fall: then the whole curve, from its
# first reading to its last, must not have fallen either.
FEWEST, ENOUGH = 6, 10
SETTLED = 2 / 3  # the part: the last two thirds of what was trained at a high rate
# At the low end of the slope's interval the loss may still fall over the part by this share of its level, and no more,
# to be said to stand: without it, a noisy curve of few readings would be called flat because nobody can tell.
# Of a quiet curve the interval may be clear of 0, and a fall of less than SURELY is none that is worth the steps.
SURELY, STANDS, MAYBE = 0.01, 0.02, 0.05
JUDGED = 3  # validations of that part, from which on they can say it instead
LEARNED = 0.05  # share of the first level, of sound, under which next to nothing was learned


def examine(patient: Patient) -> Examined:
    """Plateau: by the Theil-Sen slope of the training curve at a high rate."""
    log = patient.log
    name, loss = log.loss
    part = high_rate(log, loss)
    if part is None or len(part) < FEWEST or (len(part) < ENOUGH and _fell(loss) > STANDS):
        said = f"Plateau: {0 if part is None else len(part)} readings at a rate that has not decayed are too few."
        return Examined(missing=(said,))
    found = slope(part.x, part.y)
    span = float(part.x[-1] - part.x[0])
    level = float(np.median(part.y))
    hope = -found.low * span / abs(level) if level else 0.0
    interval = f"{_signed(found.value)} for 1,000 steps (95 % interval {_signed(found.low)} to {_signed(found.high)})"
    measured = f"Over steps {part.x[0]:,.0f} to {part.x[-1]:,.0f}, whose rate has not decayed, the {name} changes by "
    still = _held_out_stands(patient, name, part) if found.flat else None
    if not _stands(found, hope) and still is None:
        return Examined(fine=(f"{measured}{interval}: it does not stand still.",))
    done = _learned(patient, name, loss, level) or _held_out(patient, name)
    text = f"{measured}{interval}; at best it falls by {100 * max(0.0, hope):.1f} % over all of them."
    if done is not None:
        confidence = 0.3
    else:
        blind = name == "mel distance" and not len(_scores(patient, name))
        confidence = 0.8 if (hope < STANDS and not blind) or still is not None else 0.4
        done = _left(patient, name, level)
    chart = pictures.curve("plateau", name, loss, levels=[("the part's median", level)])
    told = ((text, chart), (done, None), (still, None))
    evidence = tuple(Evidence(one, picture) for one, picture in told if one)
    where = f"steps {part.x[0]:,.0f} to {part.x[-1]:,.0f}"
    return Examined((Finding("plateau", confidence, evidence, where),))


def high_rate(log: Log, loss: Series) -> Series | None:
    """The last two thirds of the readings whose rate is half of the highest or more, after the warm-up, in one part of
    the curve (a stage moves the level). None without rates."""
    rates = log.series("lr")
    if not len(rates) or float(rates.y.max()) <= 0:
        return None
    warmup = log.config.optim.warmup if log.config is not None else 0
    high = rates.x[(rates.y >= HIGH_RATE * rates.y.max()) & (rates.x > warmup)]
    parts = []
    for part in log.segments(loss):
        here = np.isin(part.x, high)
        first = int(here.sum() * (1 - SETTLED))
        parts.append(Series(part.x[here][first:], part.y[here][first:]))
    return max(parts, key=len, default=None)


def _fell(loss: Series) -> float:
    """Share of its first level by which the whole curve has fallen."""
    begin, end = float(np.median(loss.y[:3])), float(np.median(loss.y[-3:]))
    return (begin - end) / abs(begin) if begin else 0.0


def _stands(found: Slope, hope: float) -> bool:
    return hope < SURELY or (found.flat and hope < MAYBE)


def _signed(value: float) -> str:
    return f"{1000 * value:+.3g}"


def _standing(patient: Patient) -> Standing | None:
    record = patient.record
    return standing_of(record) if record is not None and patient.log.series("ce").x.size else None


def _learned(patient: Patient, name: str, loss: Series, level: float) -> str | None:
    """Why the level is one that a healthy run may stand at; None if it is not."""
    standing = _standing(patient)
    counted = None if standing is None else standing.mean.counted
    if counted is not None:
        if level < counted - LEVEL:
            return f"It stands at {level:.3g}, under what counting reaches ({counted:.3g}): it has learned first."
        return None
    begin = float(np.median(loss.y[:3]))
    if begin - level > LEARNED * abs(begin):
        return f"It stands at {level:.3g}, after it fell from {begin:.3g}: it may have learned what it can."
    return None


def _scores(patient: Patient, name: str) -> Series:
    """Held-out, which is of the same items always: far less noise than what is drawn for training."""
    return series(patient.log.valid(patient.log.weights), "mel7" if name == "mel distance" else "ce")


def _held_out(patient: Patient, name: str) -> str | None:
    """That the held-out figures say otherwise: drawn items differ by more than a restorer gains in a short run."""
    held = _scores(patient, name)
    if not len(held):
        return None
    before = (latest(patient.events, "baseline") or {}).get("input_mel7") if name == "mel distance" else None
    first, best = float(before or held.y[0]), float(held.y.min())
    if best > (1 - SURELY) * first:
        return None
    return f"Held-out items say otherwise: their {name} went from {first:.3g} to {best:.3g}."


def _held_out_stands(patient: Patient, name: str, part: Series) -> str | None:
    """That the same items, again and again, cost the same: where drawn ones are too noisy to tell."""
    scores = series(patient.log.valid("raw"), "mel7" if name == "mel distance" else "ce")
    here = scores.between(float(part.x[0]) - 1, float(part.x[-1]))
    if len(here) < JUDGED or here.y.min() < (1 - SURELY) * here.y[0]:
        return None
    return f"Held-out items stand as well: {here.y[0]:.4g} to {here.y[-1]:.4g} in {len(here)} validations."


def _left(patient: Patient, name: str, level: float) -> str:
    standing = _standing(patient)
    if standing is None or standing.mean.random is None:
        return f"It has stood at {level:.3g} nearly since it began."
    counted = standing.mean.counted
    floors = f"a guess costs {standing.mean.random:.3g}"
    floors += f" and counting {counted:.3g}" if counted is not None else ""
    return f"It stands at {level:.3g}, where {floors}: much is left to learn."

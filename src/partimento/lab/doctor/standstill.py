"""A loss that stands still although the rate does not fall, and what it stands at."""

from __future__ import annotations

from statistics import fmean

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.robust import Slope, slope
from partimento.lab.explainloss.floors import SLIGHT, Standing
from partimento.lab.explainloss.judged import LEVEL, standing_of

# Half of the highest rate: under it a cosine is past its middle, and a loss that stands is what the schedule wants.
HIGH_RATE = 0.5
FEWEST = 10  # readings of the part that is looked at
SETTLED = 2 / 3  # the part: the last two thirds of what was trained at a high rate
# At the low end of the slope's interval the loss may still fall over the part by this share of its level, and no more,
# to be said to stand: without it, a noisy curve of few readings would be called flat because nobody can tell.
STANDS, MAYBE = 0.02, 0.05
LEARNED = 0.05  # share of the first level, of sound, under which next to nothing was learned


def examine(patient: Patient) -> Examined:
    """Plateau: by the Theil-Sen slope of the training curve at a high rate. Noise data, by the floors of the log."""
    log = patient.log
    name, loss = log.loss
    noise = _noise_data(patient)
    part = high_rate(log, loss)
    if part is None or len(part) < FEWEST:
        said = f"Plateau: {0 if part is None else len(part)} readings at a rate that has not decayed are too few."
        return Examined(noise, missing=(said,))
    found = slope(part.x, part.y)
    span = float(part.x[-1] - part.x[0])
    level = float(np.median(part.y))
    hope = -found.low * span / abs(level) if level else 0.0
    interval = f"{_signed(found.value)} for 1,000 steps (95 % interval {_signed(found.low)} to {_signed(found.high)})"
    measured = f"Over steps {part.x[0]:,.0f} to {part.x[-1]:,.0f}, whose rate has not decayed, the {name} changes by "
    if not _stands(found, hope):
        return Examined(noise, (f"{measured}{interval}: it does not stand still.",))
    done = _learned(patient, name, loss, level)
    text = f"{measured}{interval}; at best it falls by {100 * max(0.0, hope):.1f} % over all of them."
    if done is not None:
        confidence = 0.3
    else:
        confidence, done = (0.8 if hope < STANDS else 0.4), _left(patient, name, level)
    chart = pictures.curve("plateau", name, loss, levels=[("the part's median", level)])
    evidence = tuple(Evidence(one, picture) for one, picture in ((text, chart), (done, None)) if one)
    where = f"steps {part.x[0]:,.0f} to {part.x[-1]:,.0f}"
    return Examined((*noise, Finding("plateau", confidence, evidence, where)))


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


def _stands(found: Slope, hope: float) -> bool:
    return found.flat and hope < MAYBE


def _signed(value: float) -> str:
    return f"{1000 * value:+.3g}"


def _standing(patient: Patient) -> Standing | None:
    record = patient.record
    return standing_of(record) if record is not None and patient.log.series("ce").x.size else None


def _learned(patient: Patient, name: str, loss: Series, level: float) -> str | None:
    """Why the level is one that a healthy run may stand at; None if it is not."""
    standing = _standing(patient)
    if standing is not None and standing.mean.random is not None:
        counted = standing.mean.counted if standing.mean.counted is not None else standing.mean.random
        if level < counted - LEVEL:
            return f"It stands at {level:.3g}, under what counting reaches ({counted:.3g}): it has learned first."
        return None
    begin = float(np.median(loss.y[:3]))
    if begin - level > LEARNED * abs(begin):
        return f"It stands at {level:.3g}, after it fell from {begin:.3g}: it may have learned what it can."
    return None


def _left(patient: Patient, name: str, level: float) -> str:
    standing = _standing(patient)
    if standing is None or standing.mean.random is None:
        return f"It has stood at {level:.3g} nearly since it began."
    counted = standing.mean.counted
    floors = f"a guess costs {standing.mean.random:.3g}"
    floors += f" and counting {counted:.3g}" if counted is not None else ""
    return f"It stands at {level:.3g}, where {floors}: much is left to learn."


def _noise_data(patient: Patient) -> tuple[Finding, ...]:
    """By the floors that the run logged: guessing, counting and the model all cost the same."""
    standing = _standing(patient)
    if standing is None or not standing.noise:
        return ()
    floors = standing.mean
    books = [one.entropy / one.random for one in standing.books if one.entropy and one.random]
    text = f"A guess costs {floors.random:.3f} nats, counting {floors.counted:.3f}"
    text += f", and the model {standing.valid:.3f} on held-out codes" if standing.valid is not None else ""
    even = f" Training codes have {100 * fmean(books):.1f} % of the entropy of chance." if books else ""
    text += f": within {100 * SLIGHT:.0f} % of one another, so no code says anything of another.{even}"
    confidence = 0.85 if standing.valid is not None and books and fmean(books) > 0.98 else 0.55
    return (Finding("noise_data", confidence, (Evidence(text),)),)

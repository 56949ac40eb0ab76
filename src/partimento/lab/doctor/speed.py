"""Time that a run lost: waiting for data, and compiling again and again."""

from __future__ import annotations

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series
from partimento.lab.doctor.patient import Patient

FEWEST = 4  # readings
BEGINNING = 2  # readings of each process that are left out: files come into the cache, kernels are made
# Less than a tenth of the time is not worth a word, a quarter is worth an hour of somebody's day.
STALLED, WORTH, MOST = 0.1, 0.25, 0.5
AGAIN = 3  # readings, after the beginning, in which something was compiled; two may be a validation and a last batch


def examine(patient: Patient) -> Examined:
    """Data stalls and recompiles, from what every line of the log says of its steps."""
    seen = (_stalls(patient.log), _recompiles(patient.log))
    return Examined(
        tuple(one for part in seen for one in part.findings),
        tuple(text for part in seen for text in part.fine),
        tuple(text for part in seen for text in part.missing),
    )


def _processes(log: Log, name: str) -> list[Series]:
    """Readings of each process, by where the run was begun or resumed, without those of its beginning."""
    begun = sorted({0, *(event["step"] for event in log.events if event["kind"] == "resume")})
    whole = log.series(name)
    ends = [*begun[1:], float("inf")]
    parts = [whole.between(begin, end) for begin, end in zip(begun, ends, strict=True)]
    return [Series(part.x[BEGINNING:], part.y[BEGINNING:]) for part in parts if len(part) > BEGINNING]


def _stalls(log: Log) -> Examined:
    parts = _processes(log, "data_wait")
    waits = np.concatenate([part.y for part in parts]) if parts else np.zeros(0)
    if len(waits) < FEWEST:
        return Examined(missing=(f"Data stalls: the log has {len(waits)} readings of how long steps waited.",))
    # The median is what usually happens; the mean is what it cost, of which stalls at times may be most.
    usual, cost = float(np.median(waits)), float(waits.mean())
    if cost < STALLED:
        return Examined(fine=(f"Steps wait for data {100 * cost:.1f} % of their time.",))
    text = f"Steps waited for their data {100 * cost:.0f} % of the time (median {100 * usual:.0f} %, "
    text += f"worst reading {100 * waits.max():.0f} %)"
    seconds = log.series("seconds")
    if len(seconds):
        lost = cost * float(np.median(seconds.y)) * log.step
        text += f": about {lost / 60:,.0f} minutes of this run" if lost >= 120 else f": about {lost:,.0f} s of this run"
    confidence = 0.9 if cost > MOST else 0.7 if cost > WORTH else 0.4
    chart = pictures.curve(
        "stall", "share of the time that waits for data", log.series("data_wait"), at_least=(0.0, 1.0)
    )
    return Examined((Finding("data_stall", confidence, (Evidence(f"{text}.", chart),)),))


def _recompiles(log: Log) -> Examined:
    parts = _processes(log, "recompiles")
    if sum(map(len, parts)) < FEWEST:
        return Examined(missing=("Recompiles: the log has too few readings of their number.",))
    starts = np.array(log.begins[1:])
    steps: list[float] = []
    for part in parts:
        grew = np.flatnonzero(np.diff(part.y) > 0) + 1
        for place in grew:  # a stage or an adversary that begins is compiled by plan
            begin, end = part.x[place - 1], part.x[place]
            if not ((starts >= begin) & (starts <= end + (end - begin))).any():
                steps.append(float(end))
    total = sum(float(part.y[-1] - part.y[0]) for part in parts)
    if len(steps) < AGAIN:
        return Examined(fine=("Nothing is compiled again and again.",))
    counted = sum(map(len, parts))
    share = len(steps) / counted
    text = (
        f"After the beginning {total:,.0f} more graphs were compiled, in {len(steps)} of {counted} readings, the last "
    )
    text += f"at step {steps[-1]:,.0f}."
    spread = steps[-1] > 0.7 * log.step  # it goes on to the end
    confidence = 0.9 if share > 0.3 else 0.7 if spread else 0.45
    chart = pictures.curve("recompiles", "graphs compiled", log.series("recompiles"))
    return Examined((Finding("recompiles", confidence, (Evidence(text, chart),)),))

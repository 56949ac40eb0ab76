"""A loss that leaves its level: for good (divergence), or for a few readings late in the run (a spike)."""

from __future__ import annotations

import re

import numpy as np

from partimento.lab.doctor import onset, pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.robust import noise, running
from partimento.runs.events import Event

FEWEST = 8  # readings of a part of the curve, under which it has no level
LAST = 20  # the end of the curve is a median over this part of it, and of 3 readings or more
# Above its lowest level by all of these, a curve has diverged: a quarter of what was learned (or half of the level,
# where more than that was learned), 5 %, and as many deviations as ten thousand healthy curves do not reach.
UNLEARNED, AT_LEAST, SIGMAS = 0.25, 0.05, 6.0
# A stage, or an adversary, may lift the level by plan; half of all that was learned before it, it does not lift.
FORGOTTEN = 0.5
# Of a single reading a spike is more: eight deviations of what is usual around it, a twentieth of its level and of what
# was learned, and three times what any other part of the curve does. Losses of small batches have long tails, and would
# spike all the time.
SPIKE, SPIKE_SHARE, ALONE = 8.0, 0.05, 3.0
AROUND = 8  # readings on either side that say what is usual
LATE = 0.3  # share of the readings after which a spike is a late one
# A skipped loss is garbage. A skipped norm alone may be a hard item: a model that knows its clips by heart has had 5
# times the limit in health.
GARBAGE = 30.0


def examine(patient: Patient) -> Examined:
    """Divergence and late spikes of the training curve, from the log alone; layers by the checkpoints beside it."""
    log = patient.log
    name, loss = log.loss
    if len(loss) < FEWEST and not _gave_up(log):
        return Examined(missing=(f"Divergence and spikes: the log has {len(loss)} readings of the loss.",))
    diverged, missing = _divergence(patient, name, loss)
    if diverged is not None:
        return Examined((diverged, *_recovered(log)), missing=missing)
    spike = _spike(log, name, loss) or _jump(log, name, loss) or _skip(log)
    recovered = _recovered(log)
    found = tuple(one for one in (spike, *recovered) if one is not None)
    fine = (f"The {name} is on its lowest level: no divergence in {len(loss)} readings.",)
    return Examined(found, fine if spike is not None else (*fine, "No late spike of the loss, and no late skip."))


def _gave_up(log: Log) -> str | None:
    """The error with which the training gave up, if it did because the weights went wrong."""
    reason = (log.ended or {}).get("reason")
    return reason if reason == "TRAIN004" else None


def _divergence(patient: Patient, name: str, loss: Series) -> tuple[Finding | None, tuple[str, ...]]:
    log = patient.log
    gone = _infinite(log)
    if gone is not None:
        return _named(patient, name, loss, 0.97, f"The loss had no finite value at the last {gone} readings.", None)
    if len(loss) >= FEWEST:
        begin = np.median(loss.y[:3])
        for part in reversed(log.segments(loss)[-1:]):
            if len(part) < FEWEST:
                continue
            end = float(np.median(part.y[-max(3, len(part) // LAST) :]))
            known = onset.level(part.y)
            base = float(known.path[-1])
            learned = max(0.0, float(begin) - base)
            limit = max(
                min(UNLEARNED * learned, 0.5 * abs(base)), AT_LEAST * abs(base), SIGMAS * known.sigma / np.sqrt(3)
            )
            if end - base > limit:
                lost = min(1.0, (end - base) / learned) if learned else 1.0
                text = f"The {name} ended at {end:.3g}; its lowest level was {base:.3g}, and it began at {begin:.3g}."
                return _named(patient, name, loss, 0.65 + 0.3 * lost, text, (part, base))
        if (forgotten := _forgotten(log, loss)) is not None:
            base, end, share = forgotten
            text = f"The {name} ended at {end:.3g}. Before its last stage it had reached {base:.3g}, from {begin:.3g}: "
            text += f"{100 * min(1.0, share):.0f} % of what was learned is gone."
            return _named(patient, name, loss, 0.65 + 0.3 * min(1.0, share), text, (loss, base))
    if _gave_up(log):
        reasons = "; ".join(str(event.get("reason")) for event in log.rollbacks[-1:])
        told = f"The training gave up for good{f', after it had gone back ({reasons})' if reasons else ''}."
        skips = [event for event in _skip_notes(log) if event["step"] >= 0.9 * log.step]
        told += f" At step {skips[-1]['step']:,}, {skips[-1]['text']}." if skips else ""
        return _named(patient, name, loss, 0.9, told, None)
    return None, ()


def _forgotten(log: Log, loss: Series) -> tuple[float, float, float] | None:
    """(lowest level before the last stage, end, share of what was learned that is lost) where that is FORGOTTEN."""
    *before, last = log.segments(loss)
    known = [onset.level(part.y) for part in before if len(part) >= FEWEST]
    if not known or len(last) < FEWEST:
        return None
    base, sigma = min((float(one.path[-1]), one.sigma) for one in known)
    end, learned = float(np.median(last.y[-max(3, len(last) // LAST) :])), float(np.median(loss.y[:3])) - base
    if learned <= SIGMAS * sigma or end - base < FORGOTTEN * learned:
        return None
    return base, end, (end - base) / learned


def _named(
    patient: Patient, name: str, loss: Series, confidence: float, text: str, level: tuple[Series, float] | None
) -> tuple[Finding, tuple[str, ...]]:
    """With when it began, which book and which part of the model went first."""
    log, evidence = patient.log, []
    part = level[0] if level is not None else loss
    step = onset.onset(part)
    began = step if step is not None else float(part.x[-1]) if len(part) else None
    marks = [] if began is None else [began]
    levels = [] if level is None else [("lowest level", level[1])]
    evidence.append(Evidence(text, pictures.curve("divergence", name, loss, levels=levels, marks=marks, log_y=True)))
    missing: tuple[str, ...] = ()
    if began is not None:
        begin = float(part.x[0]) - 1
        said = [f"It left its level after step {began:,.0f}"]
        norm = log.series("grad_norm").between(begin)
        first = onset.onset(norm)
        if first is not None and first < began:
            said.append(f"the gradient norm left its own {began - first:,.0f} steps earlier, after step {first:,.0f}")
        if (book := onset.first_book(log, begin)) is not None:
            said.append(book)
        evidence.append(Evidence(f"{'; '.join(said)}."))
        layers, why = onset.first_layers(patient, began)
        if layers is not None:
            evidence.append(Evidence(f"{layers[0].upper()}{layers[1:]}."))
        missing = (f"{why[0].upper()}{why[1:]}.",) if why else ()
    where = None if began is None else f"step {began:,.0f}"
    return Finding("divergence", round(confidence, 2), tuple(evidence), where), missing


def _infinite(log: Log) -> int | None:
    """How many of the last lines have no finite loss, if they are 3 or more."""
    count = 0
    for event in reversed(log.train):
        if event.get("loss") is not None:
            break
        count += 1
    return count if count >= 3 else None


def _recovered(log: Log) -> tuple[Finding, ...]:
    """What a rollback has mended is a remark."""
    if not log.rollbacks or _gave_up(log):
        return ()
    told = [
        f"At step {event.get('at', '?')} the run went back to step {event['step']}: {event.get('reason')}."
        for event in log.rollbacks
    ]
    last = log.rollbacks[-1]
    told.append(f"It has gone on from there with {last.get('rate_factor')} of the rate, and reached step {log.step}.")
    return (Finding("divergence", 0.3, tuple(map(Evidence, told)), f"step {last.get('at', last['step'])}, mended"),)


def _spike(log: Log, name: str, loss: Series) -> Finding | None:
    """The highest reading of a late part of the curve that stands alone."""
    best: tuple[float, float, float] | None = None
    for part in log.segments(loss):
        if len(part) < 2 * AROUND:
            continue
        over, sigma = _over(part)
        over[:AROUND] = 0.0  # where the curve falls fast, its first readings are above the median of what follows
        top = int(np.argmax(over))
        others = np.abs(np.arange(len(part)) - top) > 3
        usual = float(np.quantile(over[others], 0.995)) if others.any() else 0.0
        late = float(part.x[top]) > LATE * float(loss.x[-1]) and top < len(part) - 2 and top >= AROUND
        level = float(np.median(part.y))
        learned = float(np.median(loss.y[:3])) - level  # what is next to nothing may jump by factors
        alone = over[top] > max(SPIKE * sigma, SPIKE_SHARE * max(abs(level), learned), ALONE * usual)
        if late and alone and (best is None or over[top] > best[0]):
            best = (float(over[top]), sigma, float(part.x[top]))
    if best is None:
        return None
    over_by, sigma, step = best
    norms = log.series("grad_norm")
    jumped = norms.y[norms.x == step]
    usual_norm = float(np.median(norms.y)) if len(norms) else 0.0
    also = len(jumped) > 0 and usual_norm > 0 and jumped[0] > 3 * usual_norm
    text = f"At step {step:,.0f} the {name} stood {over_by:.3g} above the readings around it, "
    text += f"{over_by / sigma:,.0f} times their noise, and came back."
    if also:
        text += f" The gradient norm was {jumped[0]:.3g} there, where {usual_norm:.3g} is usual."
    chart = pictures.curve("late-spike", name, loss, marks=[step])
    return Finding("late_spike", 0.75 if also else 0.6, (Evidence(text, chart),), f"step {step:,.0f}")


def _jump(log: Log, name: str, loss: Series) -> Finding | None:
    """A late jump above the readings before it, of three readings or more, from which the curve comes back slowly: one
    step has spoilt what many steps now learn again."""
    best: tuple[float, Series, int] | None = None
    for part in log.segments(loss):
        if len(part) < 2 * AROUND + 3:
            continue
        places = np.arange(AROUND, len(part) - 3)
        before = running(part.y, AROUND)[places - AROUND]
        rise = np.min([part.y[places + later] for later in range(3)], axis=0) - before
        top = int(np.argmax(rise))
        others = rise[np.abs(places - places[top]) > AROUND]
        usual = max(0.0, float(np.quantile(others, 0.995))) if len(others) else 0.0
        level = float(before[top])
        learned = float(np.median(loss.y[:3])) - level
        least = max(SPIKE * noise(part.y), SPIKE_SHARE * max(abs(level), learned), ALONE * usual)
        if rise[top] > least and part.x[places[top]] > LATE * loss.x[-1] and (best is None or rise[top] > best[0]):
            best = (float(rise[top]), part, int(places[top]))
    if best is None:
        return None
    _, part, place = best
    level, step = float(np.median(part.y[place - AROUND : place])), float(part.x[place])
    peak, end = float(part.y[place:].max()), float(np.median(part.y[-3:]))
    text = f"In the readings up to step {step:,.0f} the {name} jumped from {level:.3g} to {peak:.3g}, and came back "
    text += f"slowly: it ended at {end:.3g}, {part.x[-1] - step:,.0f} steps later."
    chart = pictures.curve("late-jump", name, loss, marks=[step], levels=[("before", level)])
    return Finding("late_spike", 0.65, (Evidence(text, chart),), f"step {step:,.0f}")


def _over(part: Series) -> tuple[np.ndarray, float]:
    """Each reading over the median of those around it, and the robust deviation of that."""
    width = 2 * AROUND + 1
    middle = running(part.y, width)
    room = len(part) - len(middle)
    path = np.concatenate([np.full(room // 2, middle[0]), middle, np.full(room - room // 2, middle[-1])])
    over = part.y - path
    return over, max(1.4826 * float(np.median(np.abs(over))), 1e-3 * abs(float(np.median(part.y))), 1e-12)


def _skip(log: Log) -> Finding | None:
    """Late steps that the guard left out: what would have been a spike. Those of the stretch for which a rollback was
    made, and which was gone through again, are a remark: the run has got over it."""
    late = [
        (event["step"], event["skip"])
        for event in log.train
        if isinstance(event.get("skip"), dict) and event["step"] > LATE * log.step
    ]
    if not late:
        return _noted(log)
    told, confidence = [], 0.0
    mended = max((int(event.get("at") or 0) for event in log.rollbacks), default=0)
    for step, skip in late[:5]:
        ratios = {name: _ratio(skip.get(name), skip.get(f"{name}_limit")) for name in ("loss", "norm")}
        clear = step > mended and (ratios["loss"] > 1 or ratios["norm"] > GARBAGE)
        confidence = max(confidence, 0.6 if clear else 0.4)
        told.append(f"the last one up to step {step:,} had {_said(skip)}")
    text = f"The guard skipped steps late in the run, so the loss does not show them: {'; '.join(told)}."
    confidence = confidence if len(late) <= 3 else 0.4  # many are no single accident, and have another cause
    name, loss = log.loss
    left_out = [(float(step), value) for step, skip in late if (value := skip.get("loss")) is not None]
    skipped = Series(*(np.array([pair[place] for pair in left_out], dtype=np.float64) for place in (0, 1)))
    chart = pictures.curve("late-skip", name, loss, others=[("left out", skipped)], marks=[step for step, _ in late])
    return Finding("late_spike", confidence, (Evidence(text, chart),), f"step {late[0][0]:,}")


def _said(skip: dict[str, float | None]) -> str:
    said = []
    for name, what in (("loss", "loss"), ("norm", "gradient norm")):
        value, limit = skip.get(name), skip.get(f"{name}_limit")
        shown = "not finite" if value is None else f"{value:.3g}"
        said.append(f"{what} {shown}" + ("" if limit is None else f" (limit {limit:.3g})"))
    return " and ".join(said)


def _ratio(value: float | None, limit: float | None) -> float:
    if value is None:
        return float("inf")
    return value / limit if limit else 0.0


def _skip_notes(log: Log) -> list[Event]:
    notes = (event for event in log.events if event["kind"] == "note")
    return [event for event in notes if re.match(r"\d+ steps were skipped", str(event.get("text")))]


def _noted(log: Log) -> Finding | None:
    """In the log of an older version, where only a note tells of skips."""
    notes = [event for event in _skip_notes(log) if event["step"] > LATE * log.step]
    if not notes:
        return None
    text = f"The guard skipped steps late in the run: at step {notes[0]['step']:,}, {notes[0]['text']}."
    return Finding("late_spike", 0.4, (Evidence(text),), f"step {notes[0]['step']:,}")

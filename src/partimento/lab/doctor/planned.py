"""Whether the run did what its configuration plans: rate, position, scale of attention, null condition."""

from __future__ import annotations

import math

import numpy as np

from partimento.config import CodesConfig, Config
from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.pictures import Bar
from partimento.training.schedule import shape
from partimento.training.stages import settings_at, stages

OFF = 0.02  # share of the planned rate; logs are exact, and versions that shaped a warm-up otherwise are within it
STEEP = 2.0  # times 1 / sqrt(width of a head)


def examine(patient: Patient) -> Examined:
    """Schedule and position, attention scale, guidance: configuration against log and newest state."""
    config = patient.config
    if config is None:
        return Examined(missing=(f"Schedule and position: {patient.config_missing}.",))
    seen = [_rate(patient.log, config), _position(patient, config)]
    if isinstance(config, CodesConfig):
        seen += [_attention(patient, config), _guidance(patient, config)]
    return Examined(
        tuple(one for part in seen for one in part.findings),
        tuple(text for part in seen for text in part.fine),
        tuple(text for part in seen for text in part.missing),
    )


def _rate(log: Log, config: Config) -> Examined:
    rates = log.series("lr")
    if not len(rates):
        return Examined(missing=("The schedule: no rate was logged.",))
    plan = Series(rates.x, np.array([_planned(log, config, int(step) - 1) for step in rates.x]))
    off = np.abs(rates.y - plan.y) > OFF * np.maximum(plan.y, 1e-3 * config.optim.lr)
    last = float(rates.x[-1])
    beyond = last > config.train.steps
    if not off.any() and not beyond:
        return Examined(fine=("The logged rate is that of the schedule at every step.",))
    told = []
    if off.any():
        first = int(np.argmax(off))
        told.append(
            f"In {int(off.sum())} of {len(rates)} readings the rate is not the planned one, first at step "
            f"{rates.x[first]:,.0f}: {rates.y[first]:.3g}, planned {plan.y[first]:.3g}"
        )
        low = int(np.argmin(rates.y[first:])) + first
        if rates.y[-1] > 1.5 * rates.y[low] and low < len(rates) - 1 and plan.y[-1] <= plan.y[low]:
            told.append(f"it rises again after step {rates.x[low]:,.0f}, from {rates.y[low]:.3g} to {rates.y[-1]:.3g}")
    if beyond:
        told.append(f"the log goes to step {last:,.0f}, and train.steps is {config.train.steps:,}")
    chart = pictures.curve("schedule", "rate", rates, others=[("planned", plan)])
    text = f"{'; '.join(told)}."
    confidence = 0.9 if beyond or off.mean() > 0.05 or off.sum() > 2 else 0.6
    return Examined((Finding("schedule_mismatch", confidence, (Evidence(text, chart),)),))


def _planned(log: Log, config: Config, step: int) -> float:
    """The rate of the 0-based step, by the schedule, its stage, and the rollbacks that were made before it was made."""
    factor = 1.0
    for event in log.rollbacks:
        if step >= event["step"]:
            factor = float(event.get("rate_factor") or factor)
    return config.optim.lr * shape(step, config.optim, config.train.steps) * settings_at(config, step).lr * factor


def _position(patient: Patient, config: Config) -> Examined:
    newest = patient.newest
    if newest is None or newest.state is None or newest.step is None:
        return Examined(missing=("Position: there is no readable checkpoint.",))
    seen, step = newest.state.get("samples_seen"), newest.step
    if not isinstance(seen, int):
        return Examined(missing=("Position: the checkpoint does not say how many items were seen.",))
    planned = 0
    parts = stages(config)
    for stage, end in zip(parts, [*(one.start for one in parts[1:]), max(step, parts[-1].start)], strict=True):
        planned += stage.batch * stage.accumulate * max(0, min(step, end) - stage.start)
    told = []
    if seen != planned:
        told.append(f"the checkpoint of step {step:,} has seen {seen:,} items, and steps times batch are {planned:,}")
    if step > config.train.steps:
        told.append(f"it is of step {step:,}, and train.steps is {config.train.steps:,}")
    if not told:
        return Examined(fine=(f"The checkpoint of step {step:,} has seen {seen:,} items, as planned.",))
    text = "; ".join(told)
    chart = pictures.bars("items seen", [Bar("steps times batch", planned), Bar("the checkpoint", seen, odd=True)])
    evidence = Evidence(f"{text[0].upper()}{text[1:]}.", chart)
    return Examined((Finding("schedule_mismatch", 0.9, (evidence,), newest.path.name),))


def _attention(patient: Patient, config: CodesConfig) -> Examined:
    model = config.model
    scale = getattr(model, "attention_scale", None)
    if scale is None or not patient.from_scratch:
        why = "it is that of the heads' width" if patient.from_scratch else "it is that of the imported weights"
        return Examined(fine=(f"The scale of attention: {why}.",))
    heads, width = getattr(model, "heads", None), getattr(model, "width", None)
    each = getattr(model, "head_width", None) or (width // heads if heads and width else None)
    if each is None:
        return Examined(missing=("The scale of attention: the width of the heads is not known.",))
    times = scale * math.sqrt(each)
    if max(times, 1 / times if times else math.inf) < STEEP:
        return Examined(fine=(f"The scale of attention, {scale:g}, belongs to heads of {each}.",))
    text = (
        f"model.attention_scale is {scale:g}, and heads of {each} ask for 1 / sqrt({each}) = {1 / math.sqrt(each):.3g}"
    )
    normed = getattr(model, "qk_norm", False)
    text += f": {times:.3g} times as much. The model was trained from scratch"
    text += ", and normalised queries and keys hold it back a little." if normed else ", without normalised queries."
    confidence = 0.6 if times < 4 else 0.8 if normed else 0.9
    usual = Bar(f"1 / sqrt({each})", 1 / math.sqrt(each))
    chart = pictures.bars("factor of the attention logits", [usual, Bar("attention_scale", scale, odd=True)])
    return Examined((Finding("attention_scale", confidence, (Evidence(text, chart),), "model.attention_scale"),))


def _guidance(patient: Patient, config: CodesConfig) -> Examined:
    shares = patient.log.series("null_share")
    strengths = sorted({strength for strength in config.demo.guidance if strength != 1.0})
    played = {item.get("guidance") for _, sheet in patient.sheets for item in sheet.items}
    strengths += sorted(s for s in played - set(strengths) if isinstance(s, int | float) and s != 1.0)
    if not strengths:
        return Examined(fine=("No demo is played with guidance.",))
    dropped = float(shares.y.mean()) if len(shares) else None
    if (dropped if dropped is not None else config.data.null_share) > 0:
        seen = config.data.null_share if dropped is None else dropped
        return Examined(fine=(f"Guidance has a null condition: {100 * seen:.0f} % of the items lost theirs.",))
    named = ", ".join(f"{strength:g}" for strength in strengths)
    source = "in no logged step an item lost its condition" if dropped is not None else "data.null_share is 0"
    text = f"Demos are played with guidance {named}, and {source}."
    confidence = 0.9 if patient.from_scratch else 0.4
    chart = pictures.bars(
        "items of the training", [Bar("with their condition", 100.0), Bar("without", 0.0, odd=True)], unit=" %"
    )
    return Examined((Finding("guidance_without_null", confidence, (Evidence(text, chart),), "data.null_share"),))

"""The steps themselves: how far over the clip their gradients are, and how much of a gradient is chance."""

from __future__ import annotations

import math

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series
from partimento.lab.doctor.patient import Patient
from partimento.lab.explainloss.judged import standing_of
from partimento.training.stages import settings_at

OVER = 2.0  # times the clip; as the alarm of the training
ALWAYS = 0.9  # share of the readings after the warm-up
FEWEST = 5  # readings
# AdamW does not see a constant factor, so a norm of some times the clip is only a remark. From thirty times on nothing
# but the clip is left of the size of a gradient, and hard items count for no more than easy ones.
CLEAR, SURE = 30.0, 100.0
# Where a step is a twelfth of the noise scale, nine tenths of a gradient are chance (McCandlish et al. 2018: the loss
# in steps doubles where the batch is the noise scale). Many good trainings have no more, and only pay in steps; with
# FEW items a step, single items rule clip, guard and moments as well. Measured: 40 to 90 items on the band's loops.
SMALL, TINY, FEW = 12.0, 50.0, 4
# At random weights all codes are about as likely. What costs more than a guess, after it cost less, was made by steps
# that were too large; where it has not got far from there at the end, nothing else was learned.
WORSE, NOWHERE = 1.05, 0.97
MIDDLE = (0.2, 0.8)  # of the run: at its end what is left of the gradient is small, and its noise scale large


def examine(patient: Patient) -> Examined:
    """Clipping on every step, steps that made it worse than a guess, the gradient noise scale against the batch."""
    seen = (_clipped(patient), _too_large(patient), _noise(patient))
    return Examined(
        tuple(one for part in seen for one in part.findings),
        tuple(text for part in seen for text in part.fine),
        tuple(text for part in seen for text in part.missing),
    )


def _clipped(patient: Patient) -> Examined:
    log, config = patient.log, patient.config
    if config is None:
        return Examined(missing=("Clipping: the configuration is not known.",))
    if config.optim.adagc:
        return Examined(missing=("Clipping: AdaGC clips each tensor by its own norm, which the log does not have.",))
    warmup = min(config.optim.warmup, config.train.steps // 4)
    norms = log.series("grad_norm").between(warmup)
    if len(norms) < FEWEST:
        return Examined(missing=(f"Clipping: {len(norms)} readings of the gradient norm after the warm-up.",))
    clip = config.optim.clip
    share, usual = float((norms.y > OVER * clip).mean()), float(np.median(norms.y))
    if share < ALWAYS:
        return Examined(fine=(f"The gradient norm (median {usual:.3g}) is not always above the clip of {clip:g}.",))
    times = usual / clip
    text = f"In {100 * share:.0f} % of the readings after the warm-up the gradient norm is more than twice the clip of "
    text += f"{clip:g}; its median is {usual:.3g}, {times:,.0f} times the clip."
    confidence = 0.9 if times >= SURE else 0.65 if times >= CLEAR else 0.3
    chart = pictures.curve("clipped", "gradient norm", norms, levels=[("clip", clip)], log_y=True)
    return Examined((Finding("clipped_always", confidence, (Evidence(text, chart),)),))


def _too_large(patient: Patient) -> Examined:
    """Of a model of codes from scratch: whether its first steps made it worse than a guess. The rest of the evidence of
    a rate that is too high is in the weights."""
    standing = standing_of(patient.record) if patient.record is not None else None
    guess, loss = (None if standing is None else standing.mean.random), patient.log.series("ce")
    if guess is None or not patient.from_scratch or len(loss) < FEWEST:
        return Examined()
    top = 1 + int(np.argmax(loss.y[1 : max(3, len(loss) // 3)]))
    end = float(np.median(loss.y[-3:]))
    if loss.y[top] < WORSE * guess or loss.y[top] <= loss.y[0] or end > loss.y[top] / WORSE:
        return Examined()  # what ends up there is no beginning
    text = f"The loss rose from {loss.y[0]:.3g} to {loss.y[top]:.3g} at step {loss.x[top]:,.0f}, where a guess costs "
    text += f"{guess:.3g}: these steps were too large. It ended at {end:.3g}."
    chart = pictures.curve("too-large", "loss", loss, levels=[("a guess", guess)])
    confidence = 0.55 if end > NOWHERE * guess else 0.4
    return Examined((Finding("rate_too_high", confidence, (Evidence(text, chart),), "optim.lr"),))


def _noise(patient: Patient) -> Examined:
    found = noise_scale(patient.log)
    if found is None:
        return Examined(
            missing=(
                "The gradient noise scale: the log has no norms of micro-batches (they are logged where "
                "optim.accumulate is above 1).",
            )
        )
    scale, batch, curve = found
    times = scale / batch
    amount = f"{scale:,.0f} items" if math.isfinite(scale) else "too large to be told"
    said = (
        f"The gradient noise scale is {amount} (by the norms of micro-batches and of steps, in the middle of the run)"
    )
    said += f", and a step has {batch:,.0f}"
    if times < SMALL:
        return Examined(fine=(f"{said}: the batch is not small against it.",))
    chart = pictures.curve("noise", "noise scale, items", curve, levels=[("a step", batch)], log_y=True)
    more = f", {times:,.0f} times less" if math.isfinite(times) else ""
    confidence = 0.3 if batch > FEW else 0.75 if times >= TINY else 0.6
    return Examined((Finding("batch_too_small", confidence, (Evidence(f"{said}{more}.", chart),)),))


def noise_scale(log: Log) -> tuple[float, float, Series] | None:
    """(noise scale and batch in items, the scale of each reading) of the middle of the run; None where nothing was
    logged, or too little to divide by.

    B_simple = tr(covariance) / |gradient|^2, both by the squared norms at two sizes of batch (McCandlish et al., "An
    empirical model of large-batch training", 2018, appendix A). Of the readings the median ratio of the two squares is
    taken: one step whose norm is ten times the usual one would decide a mean. Infinite where no gradient is left above
    the noise.
    """
    config = log.config
    small, big = log.series("noise_small"), log.series("noise_big")
    if config is None or not len(small) or len(small) != len(big):
        return None
    sizes = [settings_at(config, int(step) - 1) for step in small.x]
    b_N = np.array([one.batch / _world(log) for one in sizes])
    B_N = np.array([float(one.batch * one.accumulate) for one in sizes])
    ratio_N = small.y / np.maximum(big.y, 1e-30)
    middle_N = (b_N < B_N) & (small.x > MIDDLE[0] * log.step) & (small.x <= MIDDLE[1] * log.step)
    if middle_N.sum() < FEWEST:
        return None
    b, B = float(np.median(b_N[middle_N])), float(np.median(B_N[middle_N]))
    middle_N &= (b_N == b) & (B_N == B)
    each_N = np.array([_scale(ratio, b, B) for ratio in ratio_N[middle_N]])
    known_N = np.isfinite(each_N) & (each_N > 0)
    curve = Series(small.x[middle_N][known_N], each_N[known_N])
    return _scale(float(np.median(ratio_N[middle_N])), b, B), B, curve


def _scale(ratio: float, b: float, B: float) -> float:
    """From |gradient of b items|^2 / |gradient of B items|^2, whose means are G + T / b and G + T / B."""
    square, trace = (B - b * ratio) / (B - b), (ratio - 1) / (1 / b - 1 / B)
    return max(0.0, trace) / square if square > 0 else math.inf


def _world(log: Log) -> int:
    begun = next((e for e in reversed(log.events) if e["kind"] in ("start", "resume") and e.get("world")), {})
    return int(begun.get("world") or 1)

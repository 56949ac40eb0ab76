"""The steps themselves: how far over the clip their gradients are, and how much of a gradient is chance."""

from __future__ import annotations

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Log, Series
from partimento.lab.doctor.patient import Patient
from partimento.training.stages import settings_at

OVER = 2.0  # times the clip; as the alarm of the training
ALWAYS = 0.9  # share of the readings after the warm-up
FEWEST = 5  # readings
# AdamW does not see a constant factor, so a norm of some times the clip is only told. From thirty times on nothing but
# the clip is left of the size of a gradient, and hard items count for no more than easy ones.
TOLD, CLEAR, SURE = 2.0, 30.0, 100.0
# A batch of a twentieth of the noise scale spends nearly all of a step on chance, and one of a hundredth all of it
# (McCandlish et al. 2018, figure 1: the loss in steps doubles where the batch is the noise scale).
SMALL, TINY = 30.0, 100.0
MIDDLE = (0.2, 0.8)  # of the run: at its end what is left of the gradient is small, and its noise scale large


def examine(patient: Patient) -> Examined:
    """Clipping on every step, and the gradient noise scale against the batch."""
    seen = (_clipped(patient), _noise(patient))
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


def _noise(patient: Patient) -> Examined:
    found = noise_scale(patient.log)
    how = "from the norms of micro-batches and of steps"
    if found is None:
        return Examined(
            missing=(
                "The gradient noise scale: the log has no norms of micro-batches (they are logged where "
                "optim.accumulate is above 1).",
            )
        )
    scale, batch, curve = found
    times = scale / batch
    said = f"The gradient noise scale is {scale:,.0f} items {how}, and a step has {batch:,.0f}"
    if times < SMALL:
        return Examined(fine=(f"{said}: the batch is not small against it.",))
    chart = pictures.curve("noise", "noise scale, items", curve, levels=[("batch", batch)], log_y=True)
    text = f"{said}, {times:,.0f} times less (middle of the run)."
    return Examined((Finding("batch_too_small", 0.75 if times >= TINY else 0.55, (Evidence(text, chart),)),))


def noise_scale(log: Log) -> tuple[float, float, Series] | None:
    """(noise scale and batch in items, the scale of each reading) of the middle of the run; None where nothing was
    logged, or too little to divide by.

    B_simple = tr(covariance) / |gradient|^2, both by the squared norms at two sizes of batch, whose means over many
    steps are divided, not the ratios averaged (McCandlish et al., "An empirical model of large-batch training", 2018,
    appendix A). Infinite where no gradient is left above the noise.
    """
    config = log.config
    small, big = log.series("noise_small"), log.series("noise_big")
    if config is None or not len(small) or len(small) != len(big):
        return None
    sizes = [settings_at(config, int(step) - 1) for step in small.x]
    world = _world(log)
    b = np.array([one.batch / world for one in sizes])
    B = np.array([float(one.batch * one.accumulate) for one in sizes])
    kept = np.where(b < B)[0]
    begin, end = MIDDLE[0] * log.step, MIDDLE[1] * log.step
    middle = kept[(small.x[kept] > begin) & (small.x[kept] <= end)]
    if len(middle) < FEWEST:
        return None
    square_N = (B * big.y - b * small.y)[kept] / (B - b)[kept]
    trace_N = (small.y - big.y)[kept] / (1 / b - 1 / B)[kept]
    here = np.isin(kept, middle)
    square, trace = float(square_N[here].mean()), float(trace_N[here].mean())
    if trace <= 0:
        return 0.0, float(B[middle[-1]]), Series(small.x[kept], np.maximum(trace_N, 0.0))
    each = np.where(square_N > 0, trace_N / np.where(square_N > 0, square_N, 1.0), np.nan)
    known = np.isfinite(each) & (each > 0)
    scale = trace / square if square > 0 else float("inf")
    return scale, float(B[middle[-1]]), Series(small.x[kept][known], each[known])


def _world(log: Log) -> int:
    begun = next((e for e in reversed(log.events) if e["kind"] in ("start", "resume") and e.get("world")), {})
    return int(begun.get("world") or 1)

"""The learning rate as a plain function of the optimizer step."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, minimum: float, warmup: int, steps: int) -> float:
    """Rate for the 0-based optimizer step: linear warm-up to `peak`, then a cosine to `minimum` at the last step.

    `minimum` is a rate, not a share. Steps past the end stay at it: a cosine that is followed further rises again.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * progress))

"""How a weight of the loss goes over a training. Without torch: a log is read with it too."""

from __future__ import annotations

from collections.abc import Sequence


def ramp(weight: float | Sequence[float], progress: float) -> float:
    """The weight at `progress` (0 first step, 1 last): of a pair evenly from one to the other in the logarithm, or
    evenly as it is where one of the two is 0."""
    if isinstance(weight, int | float):
        return float(weight)
    first, last = weight
    progress = min(max(progress, 0.0), 1.0)
    if first > 0 and last > 0:
        return float(first * (last / first) ** progress)
    return float(first + (last - first) * progress)

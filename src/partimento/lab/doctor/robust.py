"""Statistics that single values cannot move: noise by differences, the slope of a curve with an interval.

Shapes: N readings of a curve, in order of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento.keyed import numpy_rng

Curve = NDArray[np.float64]
NORMAL = 1.4826
"""A median absolute deviation times this is the standard deviation of a normal distribution."""
POINTS = 100
"""Longer curves are reduced to medians of so many bins: the number of pairs grows with the square."""
DRAWS = 300


@dataclass(frozen=True)
class Slope:
    """Change of y for each x: the estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def flat(self) -> bool:
        return self.low <= 0 <= self.high


def noise(y_N: Curve) -> float:
    """Standard deviation of one reading, from differences of neighbours, so that a trend is none; 0 of fewer than 3."""
    return 0.0 if len(y_N) < 3 else NORMAL * float(np.median(np.abs(np.diff(y_N)))) / math.sqrt(2)


def running(y_N: Curve, width: int) -> Curve:
    """Medians [N - width + 1] of `width` neighbours."""
    width = min(width, len(y_N))
    return np.median(np.lib.stride_tricks.sliding_window_view(y_N, width), axis=1)


def slope(x_N: Curve, y_N: Curve) -> Slope:
    """Theil (1950) and Sen (1968): the median slope of all pairs. The interval is that of a moving-block bootstrap of
    the residuals (Kuensch, Annals of Statistics 1989): neighbouring readings share batches, averages and luck, and
    blocks of sqrt(N) keep what they share. Raises ValueError for fewer than 4 points."""
    if len(x_N) < 4:
        raise ValueError(f"{len(x_N)} points have no slope")
    if len(x_N) > POINTS:
        bins = np.array_split(np.arange(len(x_N)), POINTS)
        x_N, y_N = (np.array([np.median(values[one]) for one in bins]) for values in (x_N, y_N))
    before, after = np.triu_indices(len(x_N), 1)
    spans = x_N[after] - x_N[before]
    value = float(np.median((y_N[after] - y_N[before]) / spans))
    line_N = value * x_N
    rest_N = y_N - line_N
    rest_N = rest_N - np.median(rest_N)

    block = max(2, math.ceil(math.sqrt(len(x_N))))
    blocks = -(-len(x_N) // block)
    rng = numpy_rng("doctor", "slope", len(x_N))
    starts_DB = rng.integers(0, len(x_N) - block + 1, (DRAWS, blocks))
    drawn_DN = (starts_DB[:, :, None] + np.arange(block)).reshape(DRAWS, -1)[:, : len(x_N)]
    again_DN = line_N + rest_N[drawn_DN]
    slopes_D = np.median((again_DN[:, after] - again_DN[:, before]) / spans, axis=1)
    low, high = np.quantile(slopes_D, (0.025, 0.975))
    return Slope(value, float(low), float(high))

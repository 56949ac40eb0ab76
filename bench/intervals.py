"""Intervals of 95 % that the measurements in this folder state."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student

from partimento.lab.scores.following import wilson

__all__ = ["of_mean", "wilson"]


def of_mean(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width) of a few values: Student's t; the half width of a single one is not known (nan)."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return mean, math.nan
    return mean, float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)

"""How sure: the rank of a sample among held-out music, and a fitted tail where the rank has no more to say.

The rank alone cannot say less than 1 / (1 + n) for n held-out clips. The longest of many runs follows an extreme-value
law (Gumbel; Karlin and Altschul, "Methods for assessing the statistical significance of molecular sequence features",
PNAS 87, 1990), so the held-out values are fitted with one. The fit is an extrapolation, and held to be no more: its
scale is taken at the upper end of its 95 % interval, lengths are counted half a frame shorter than they are, and where
the held-out values themselves have a heavier tail than the fit there is none. Where they hardly differ the scale is
LEAST: by chance, each further frame is then met in one case of e^2, which is more often than codes of music are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 8  # values that are fitted
LEAST = 0.5  # frames
TOO_HEAVY = 0.01
"""There is no fit where the largest of the values it was made of is so improbable under it, for as many draws."""
_SPREAD = 1.6449 * math.sqrt(6) / math.pi
"""The scale's standard deviation by maximum likelihood is sqrt(6) / pi / sqrt(n) of it; 1.6449 of them upwards."""


@dataclass(frozen=True)
class Gumbel:
    """P(X < x) = exp(-exp(-(x - place) / scale)), of `n` values."""

    place: float
    scale: float
    n: int

    def beyond(self, value: float) -> float:
        """P(X >= value) of whole numbers, by the continuous law from half below."""
        return float(-np.expm1(-np.exp(-(value - 0.5 - self.place) / self.scale)))


@dataclass(frozen=True)
class PValue:
    """`rank` = (1 + #>=) / (1 + n) among the n held-out values, `reached` of which are as large; `fitted` that of the
    extreme-value fit (None where there is none); both for the whole length of the sample. `p` is what counts: the rank,
    and where no held-out value reaches the sample's, the fitted one if it is less."""

    rank: float
    fitted: float | None
    n: int
    reached: int

    @property
    def p(self) -> float:
        return self.rank if self.reached or self.fitted is None else min(self.rank, self.fitted)


def fit(values: Sequence[float]) -> Gumbel | None:
    """Maximum likelihood, the scale made safe (see above). None for too few values, or a heavier tail."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < FEWEST:
        return None
    scale = LEAST if x.min() == x.max() else max(LEAST, _scale(x))
    place = -scale * math.log(float(np.exp(-(x - x.min()) / scale).mean())) + float(x.min())
    found = Gumbel(place, scale * (1 + _SPREAD / math.sqrt(len(x))), len(x))
    return None if longer(found.beyond(float(x.max())), len(x)) < TOO_HEAVY else found


def _scale(x: NDArray[np.float64]) -> float:
    """The root of scale = mean(x) - sum(x w) / sum(w), w = exp(-x / scale): the likelihood equation, by bisection."""

    def excess(scale: float) -> float:
        w = np.exp(-(x - x.min()) / scale)
        return float(x.mean() - (x * w).sum() / w.sum() - scale)

    low, high = 1e-6 * float(x.max() - x.min()), 10 * float(x.max() - x.min())
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def longer(p: float, times: float) -> float:
    """The p-value of the largest of `times` independent draws, for one of a single draw (Sidak)."""
    return 1.0 if p >= 1 else float(-math.expm1(times * math.log1p(-p)))


def pvalue(value: float, null: Sequence[float], gumbel: Gumbel | None, times: float = 1.0) -> PValue:
    """Of a sample that is `times` as long as a held-out window (1 or more)."""
    reached = sum(one >= value for one in null)
    rank = longer((1 + reached) / (1 + len(null)), times)
    return PValue(rank, None if gumbel is None else longer(gumbel.beyond(value), times), len(null), reached)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values made larger so that all may be looked at (Holm, "A simple sequentially rejective multiple test
    procedure", Scand. J. Statist. 6, 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    made, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        made[place] = least
    return made

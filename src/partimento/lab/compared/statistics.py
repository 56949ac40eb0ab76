"""What a few seeds and some clips allow to be said: effect sizes, p values, Holm's correction, power.

Formulas: Cohen's d_z (Cohen 1988, 2.3.5) with the interval of Steiger and Fouladi (1997), by turning round the
noncentral t; power of the t test (Cohen 1988, 2.3); Satterthwaite's degrees of freedom (Biometrics Bulletin 1946); Holm
(Scandinavian Journal of Statistics 1979). They are held against scipy and against simulations in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t, wilcoxon

LEVEL = 0.05  # of significance, after the correction for several comparisons
POWER = 0.8
MOST_SEEDS = 1000
MANY = 1e6  # degrees of freedom of which Student's t is the normal distribution
_QUANTILES = 4000


@dataclass(frozen=True)
class Effect:
    """Cohen's d_z: mean of `n` paired differences over their standard deviation, with a 95 % interval."""

    d: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        return asdict(self)


def effect_size(differences: Sequence[float]) -> Effect | None:
    """d_z of paired differences; None where there are fewer than 3, or all are the same."""
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n < 3 or not (spread := float(values.std(ddof=1))):
        return None
    d = float(values.mean()) / spread
    seen = d * math.sqrt(n)
    spreads_Q = _spreads(n - 1)
    ends = sorted((seen * float(spreads_Q[0]), seen * float(spreads_Q[-1])))
    low, high = (
        brentq(lambda shift, share=share: _below(seen, shift, spreads_Q) - share, ends[0] - 6, ends[1] + 6)
        for share in (0.975, 0.025)
    )
    return Effect(d, low / math.sqrt(n), high / math.sqrt(n), n)


def signed_ranks(differences: Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, which asks for no normal distribution; None below 6 differences that
    are not 0: no ranks of five reach 5 %."""
    values = np.asarray([value for value in differences if value], dtype=np.float64)
    return float(wilcoxon(values).pvalue) if len(values) >= 6 else None


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own."""
    total = sum(variance for variance, _ in parts)
    below = sum(variance**2 / degrees for variance, degrees in parts if variance and degrees > 0)
    return total**2 / below if below > 0 else math.inf


def p_of_interval(mean: float, half: float, degrees: float) -> float:
    """Two-sided p of the t test whose 95 % interval is mean -+ half: under 0.05 exactly where that excludes 0."""
    if not half:
        return 0.0 if mean else 1.0
    return float(2 * t.sf(abs(mean) / half * t.ppf(0.975, degrees), degrees))


def holm(values: Sequence[float]) -> list[float]:
    """p values of a family of comparisons, adjusted so that the chance of one false finding in all is at most LEVEL."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


@dataclass(frozen=True)
class Spread:
    """What a difference is uncertain by. `seeds`: variance of the difference of one seed (of a pair, or of one run of
    each side, if they are not paired). `clips`: variance that stays however many seeds there are, as the clips are so
    few; it comes from `sources` of them (0: clips were not looked at)."""

    seeds: float
    clips: float = 0.0
    sources: int = 0
    paired: bool = True

    def variance(self, seeds: float) -> float:
        return self.seeds / seeds + self.clips

    def degrees(self, seeds: float) -> float:
        of_seeds = (seeds - 1) * (1 if self.paired else 2)
        return satterthwaite([(self.seeds / seeds, of_seeds), (self.clips, self.sources - 1)])


def power(difference: float, spread: Spread, seeds: float, level: float = LEVEL) -> float:
    """Chance that the t test at `level` finds a true `difference` with so many seeds (of each side)."""
    variance = spread.variance(seeds)
    if variance <= 0:
        return 1.0 if difference else level
    degrees, shift = spread.degrees(seeds), abs(difference) / math.sqrt(variance)
    bound, spreads_Q = float(t.isf(level / 2, min(degrees, MANY))), _spreads(degrees)
    return 1 - _below(bound, shift, spreads_Q) + _below(-bound, shift, spreads_Q)


def _spreads(degrees: float) -> NDArray[np.float64]:
    """Equally likely values of an estimated standard deviation over the true one."""
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.sqrt(chi2.ppf(shares, degrees) / degrees) if degrees < MANY else np.ones(1)


def _below(bound: float, shift: float, spreads_Q: NDArray[np.float64]) -> float:
    """P(T <= bound) of the noncentral t: the mean over what the spread might have been. (scipy's has no numbers far
    from the middle.)"""
    return float(norm.cdf(bound * spreads_Q - shift).mean())


def seeds_needed(difference: float, spread: Spread, level: float = LEVEL) -> int | None:
    """The fewest seeds (of each side) with which a true `difference` is found with a power of 80 %.

    None where no number up to MOST_SEEDS is enough.
    """
    if power(difference, spread, MOST_SEEDS, level) < POWER:
        return None
    low, high = 1, 2
    while power(difference, spread, high, level) < POWER:
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, spread, middle, level) >= POWER else (middle, high)
    return high


def clips_forbid(difference: float, spread: Spread, level: float = LEVEL) -> bool:
    """Whether more seeds alone can never decide, as the clips that it is judged on differ too much."""
    endless = Spread(0.0, spread.clips, spread.sources, spread.paired)
    return spread.clips > 0 and power(difference, endless, MOST_SEEDS, level) < POWER


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % interval by Student's t; of one value no interval is known."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, None
    return mean, float(t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)


def half_width(error: float, degrees: float) -> float:
    """Half of the 95 % interval of a mean with this standard error."""
    return float(t.ppf(0.975, degrees)) * error if math.isfinite(degrees) else 1.959964 * error

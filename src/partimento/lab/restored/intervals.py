"""Bootstrap intervals of paired differences: over sources, and over sources and seeds at once.

Clips of one source (a tune, a singer) are alike, so a source is what is drawn, never a clip. Of n units n - 1 are drawn
at a time, which makes the variance of the resampled means the unbiased one of the mean (Rao and Wu, "Resampling
inference with complex survey data", JASA 1988); n draws out of n would give (n - 1) / n of it, a third too little for
three seeds. That the spread itself is estimated from few units is paid by Student's t in place of the normal
distribution, as Hesterberg ("What teachers should know about the bootstrap", The American Statistician 2015) does. Of
fewer than FEW sources resampling has no tails, and the interval is Student's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from partimento.keyed import numpy_rng

RESAMPLES = 2000
FEW = 6
LEVEL = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; `low` and `high` are None where one unit alone tells nothing of the spread.

    `n` counts the sources, `seeds` the runs of each condition (0: not over seeds).
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    seeds: int = 0

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def to_json(self) -> dict[str, float | int | None]:
        return asdict(self)


def paired_bootstrap(
    differences_by_source: Mapping[str, Sequence[float]], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over the sources of each source's mean difference, and its 95 % interval.

    Sources count alike, however many clips each has. Equal arguments give equal intervals. Raises ValueError where
    there is no source, an empty one, or a difference that is not finite.
    """
    means_S = _means(differences_by_source)
    n = len(means_S)
    if n < 2:
        return Interval(float(means_S.mean()), None, None, n)
    if n < FEW:
        half = _student(n - 1) * float(means_S.std(ddof=1)) / math.sqrt(n)
        return Interval(float(means_S.mean()), float(means_S.mean()) - half, float(means_S.mean()) + half, n)
    rng = numpy_rng("paired bootstrap", seed, resamples)
    drawn_R = means_S[rng.integers(n, size=(resamples, n - 1))].mean(1)
    low, high = _percentiles(drawn_R, degrees=n - 1)
    return Interval(float(means_S.mean()), low, high, n)


def difference_over_seeds(
    first: Mapping[str, Mapping[str, Sequence[float]]],
    second: Mapping[str, Mapping[str, Sequence[float]]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """second - first of two conditions, each {seed of the run: {source: values}}, over seeds and sources.

    Only sources that every run has are used. Where both conditions have the same seeds, runs of one seed are a pair and
    are drawn together; else each condition's runs are drawn on their own. The interval is the mean -+ t times the
    standard deviation of the resampled means: percentiles of so few seeds have no tails. The degrees of freedom of t
    are Satterthwaite's, from the variance that seeds alone and sources alone give. Raises ValueError as
    `paired_bootstrap`, and where no source is common.
    """
    if not first or not second:
        raise ValueError("a condition without runs has no difference")
    common = set.intersection(*(set(run) for condition in (first, second) for run in condition.values()))
    if not common:
        raise ValueError("no source is common to all runs")
    sources = sorted(common)
    one_RS, two_RS = (
        np.stack([_means({source: condition[run][source] for source in sources}) for run in sorted(condition)])
        for condition in (first, second)
    )
    paired = sorted(first) == sorted(second)
    mean = float(two_RS.mean() - one_RS.mean())
    runs, n = min(len(one_RS), len(two_RS)), len(sources)
    if runs < 2 or n < 2:
        return Interval(mean, None, None, n, runs)
    rng = numpy_rng("bootstrap over seeds", seed, resamples)
    of_both, of_seeds, of_sources = np.empty((3, resamples))
    for number in range(resamples):
        places = rng.integers(n, size=n - 1)
        rows = rng.integers(len(two_RS), size=len(two_RS) - 1)
        others = rows if paired else rng.integers(len(one_RS), size=len(one_RS) - 1)
        of_seeds[number] = two_RS[rows].mean() - one_RS[others].mean()
        of_sources[number] = two_RS[:, places].mean() - one_RS[:, places].mean()
        of_both[number] = two_RS[rows][:, places].mean() - one_RS[others][:, places].mean()
    half = _student(_degrees(float(of_seeds.var()), runs - 1, float(of_sources.var()), n - 1)) * float(of_both.std())
    return Interval(mean, mean - half, mean + half, n, runs)


def _means(values_by_source: Mapping[str, Sequence[float]]) -> Array:
    if not values_by_source or any(len(values) == 0 for values in values_by_source.values()):
        raise ValueError("there is no interval of no values")
    means = np.array([np.mean(values_by_source[source]) for source in sorted(values_by_source)], dtype=np.float64)
    if not np.isfinite(means).all():
        raise ValueError("a value is not finite; leave out what is undefined, and count it")
    return means


def _percentiles(drawn_R: Array, degrees: int) -> tuple[float, float]:
    """The percentiles that cover 95 % if t, and not the normal distribution, is behind them."""
    from scipy.stats import norm

    tail = float(norm.cdf(-_student(degrees)))
    low, high = np.quantile(drawn_R, [tail, 1 - tail])
    return float(low), float(high)


def _student(degrees: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + LEVEL / 2, degrees))


def _degrees(first: float, first_degrees: int, second: float, second_degrees: int) -> float:
    """Satterthwaite's degrees of freedom of a sum of two variances."""
    below = first**2 / first_degrees + second**2 / second_degrees
    return (first + second) ** 2 / below if below > 0 else math.inf

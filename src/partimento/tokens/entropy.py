"""Entropy, coverage, mutual information and chance agreement of code counts: the one place where they are defined.

All in nats. Counts are integers [..., V]: how often each of V codes occurs; pair counts [V, V]: how often b follows a.

What small samples do to these figures. N draws cannot show more than ln N nats, so the plug-in entropy is too low, by
about (kinds - 1) / 2N (Miller 1955, Madow); `miller_madow` adds that back: right where most codes were seen often.
The plug-in mutual information of pairs is too *high*, by as much as the whole entropy where pairs are rarely seen
twice; `excess_mutual` takes off what a shuffle of the same codes would show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROWS = 256  # rows of a pair table worked on at once


def counts(codes_TK: NDArray[np.integer], cardinality: int) -> NDArray[np.int64]:
    """[K, V]: how often each code occurs. Raises ValueError for an id outside 0..V-1."""
    codes_TK = np.asarray(codes_TK)
    if codes_TK.size and not 0 <= codes_TK.min() <= codes_TK.max() < cardinality:
        raise ValueError(f"ids {codes_TK.min()}..{codes_TK.max()} are not codes below {cardinality}")
    return np.stack([np.bincount(book, minlength=cardinality) for book in codes_TK.T.astype(np.int64)])


def entropy(count_V: ArrayLike) -> NDArray[np.float64]:
    """[...]: -sum p ln p of the counts' own frequencies [..., V]. NaN where nothing was counted."""
    n = np.asarray(count_V, dtype=np.float64)
    total = n.sum(axis=-1, keepdims=True)
    p = n / np.where(total > 0, total, np.nan)
    return -(p * np.log(np.where(n > 0, p, 1.0))).sum(axis=-1) + 0.0


def miller_madow(count_V: ArrayLike) -> NDArray[np.float64]:
    """[...]: the entropy with its first-order bias taken off, and at most ln V."""
    n = np.asarray(count_V)
    total = n.sum(axis=-1)
    bias = (np.count_nonzero(n, axis=-1) - 1) / np.where(total > 0, 2.0 * total, np.nan)
    return np.minimum(entropy(n) + bias, math.log(n.shape[-1]))


def coverage(count_V: ArrayLike) -> NDArray[np.float64]:
    """[...]: share of the V codes that occur at least once."""
    return (np.asarray(count_V) > 0).mean(axis=-1)


def perplexity(entropy: ArrayLike) -> NDArray[np.float64]:
    """How many equally used codes have this entropy."""
    return np.exp(np.asarray(entropy, dtype=np.float64))


def divergence(count_V: ArrayLike, against_V: ArrayLike) -> NDArray[np.float64]:
    """[...]: KL(p || q) = sum p ln(p / q), finite, since q = (count + 1) / (sum + V) of the counts `against_V`."""
    n, other = np.asarray(count_V, dtype=np.float64), np.asarray(against_V, dtype=np.float64)
    total = n.sum(axis=-1, keepdims=True)
    p = n / np.where(total > 0, total, np.nan)
    q = (other + 1.0) / (other.sum(axis=-1, keepdims=True) + other.shape[-1])
    return (p * np.log(np.where(n > 0, p / q, 1.0))).sum(axis=-1)


def mutual(count_VV: ArrayLike) -> float:
    """Plug-in mutual information of a code and its successor: H(a) + H(b) - H(a, b). NaN without a pair."""
    n = np.asarray(count_VV)
    return float(entropy(n.sum(1)) + entropy(n.sum(0)) - entropy(n.reshape(-1)))


def chance_mutual(count_VV: ArrayLike) -> float:
    """What `mutual` shows on average where the successors are dealt out anew at random: its bias, in closed form.

    A cell's count X is then hypergeometric, with the mean l = n_a m_b / N and the variance l + l^2 (r - 1), where
    r = (1 - 1 / n_a)(1 - 1 / m_b) N / (N - 1). Its share of the sum, E[X ln X] - l ln l, is that of a Poisson count,
    l (E ln(1 + X) - ln l), plus half the difference of the variances times the mean second difference of x ln x. With
    many pairs the sum becomes (V - 1)^2 / 2N, the mean of the G-test's chi-square.
    """
    n = np.asarray(count_VV)
    total = float(n.sum())
    if total < 2:
        return math.nan
    # Codes that occur equally often have equal cells: each is worked out once.
    (rows, row_times), (columns, column_times) = (
        np.unique(margin[margin > 0], return_counts=True) for margin in (n.sum(1), n.sum(0))
    )
    nats = 0.0
    for first in range(0, len(rows), _ROWS):
        some = rows[first : first + _ROWS, None]
        mean = some * columns / total
        ratio = (1 - 1 / some) * (1 - 1 / columns) * (total / (total - 1))
        log1p, bend = _poisson_means(mean)
        cells = mean * (log1p - np.log(mean)) + (ratio - 1) * mean**2 * bend / 2
        nats += float(row_times[first : first + _ROWS] @ cells @ column_times)
    return nats / total


def excess_mutual(count_VV: ArrayLike) -> float:
    """Mutual information above chance. Near 0 for codes without order; where pairs are rarely seen twice it is too low,
    since what a few pairs can show is bounded."""
    return mutual(count_VV) - chance_mutual(count_VV)


def _poisson_means(rate: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """E ln(1 + X), and the mean second difference of x ln x, for X ~ Poisson(rate): from a table below 100, by their
    expansions above."""
    grid, log1p, bend = _table()
    at = np.log(rate)
    small = np.exp(np.interp(at, grid, log1p)), np.interp(at, grid, bend)
    if rate.max(initial=0.0) < 100:
        return small
    more = 1 + rate
    wide = np.log(more) - rate / (2 * more**2) + rate / (3 * more**3) - 3 * rate**2 / (4 * more**4)
    return np.where(rate < 100, small[0], wide), np.where(rate < 100, small[1], 1 / rate)


@cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """ln rate, ln E ln(1 + X) and E[second difference of x ln x], on 2,000 rates from 1e-12 to 100."""
    log_rate = np.linspace(math.log(1e-12), math.log(100), 2000)
    k = np.arange(400, dtype=np.float64)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    p = np.exp(k * log_rate[:, None] - np.exp(log_rate)[:, None] - log_factorial)
    x = np.arange(402, dtype=np.float64)
    curve = x * np.log(np.maximum(x, 1.0))
    return log_rate, np.log(p @ np.log1p(k)), p @ np.diff(curve, 2)


@dataclass(frozen=True)
class Agreement:
    """How many couples of draws agree, how many would by chance, and the variance of that number by chance.

    It sees structure in samples that are far too small for entropies: a few times sqrt(cells) draws are enough.
    """

    seen: float
    chance: float
    variance: float

    @property
    def nats(self) -> float:
        """ln(seen / chance): 0 by chance; the gap between the Renyi entropy of order 2 and its value by chance."""
        if not self.chance:
            return math.nan
        return math.log(self.seen / self.chance) if self.seen else -math.inf

    @property
    def z(self) -> float:
        """Standard deviations above chance."""
        return (self.seen - self.chance) / math.sqrt(self.variance) if self.variance else math.nan

    @property
    def blind(self) -> float:
        """Nats under which an effect would not stand out from chance (4 standard deviations); infinite without data."""
        return math.log1p(4 * math.sqrt(self.variance) / self.chance) if self.chance else math.inf


def uniformity(count_V: ArrayLike) -> Agreement:
    """Couples of equal codes, against V codes drawn alike. Pearson's chi-square of uniformity in other units:
    X^2 = (2 V / N) seen + V - N."""
    n = np.asarray(count_V, dtype=np.float64)
    V, total = n.shape[-1], float(n.sum())
    chance = total * (total - 1) / (2 * V)
    return Agreement(float((n * (n - 1)).sum()) / 2, chance, chance * (1 - 1 / V))


def order(count_VV: ArrayLike) -> Agreement:
    """Couples of equal pairs, against the same codes with their successors shuffled.

    The mean over shuffles is exact. The variance is that of a weighted chi-square (half the sum of squared expected
    counts, less what the fixed margins take), and that of the bilinear form sum n_a n_b / N which uneven margins add.
    """
    n = np.asarray(count_VV, dtype=np.float64)
    before, after, total = n.sum(1), n.sum(0), float(n.sum())
    seen = float((n * (n - 1)).sum()) / 2
    if total < 2:
        return Agreement(seen, 0.0, 0.0)
    chance = float((before * (before - 1)).sum() * (after * (after - 1)).sum()) / (2 * total * (total - 1))
    squares, form = chance, 1 / ((total - 1) * total**2)
    for margin in (before, after):
        two, three = float((margin**2).sum()), float((margin**3).sum())
        squares *= (two - 2 * three / total + (two / total) ** 2) / two
        form *= three - two**2 / total
    return Agreement(seen, chance, squares + form)

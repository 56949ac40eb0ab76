"""Does the playing change while it goes on? The thirds of a sample against each other.

Two figures: the divergence of the thirds' code usage (Jensen and Shannon: the entropy of all less the mean entropy of
the thirds, mean over the first books), and the range of the thirds' entropies. Both are above 0 in any music. The
p-value is that of a permutation of blocks of half a second, which are long enough to keep most of what neighbouring
frames have in common. Over all samples the figures are added, permutation by permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento import keyed

BLOCK_SECONDS = 0.5
FEWEST_BLOCKS = 9
PERMUTATIONS = 199
BOOKS = 4
_AT_ONCE = 50  # permutations


@dataclass(frozen=True)
class Drift:
    """Nats. `usage` is the divergence of the thirds, `entropy_thirds` their entropies (mean over the books, the first
    third first), and `entropy_range` the largest less the smallest of them."""

    usage: float
    entropy_thirds: tuple[float, float, float]
    entropy_range: float
    usage_p: float
    entropy_p: float


@dataclass(frozen=True)
class Drifts:
    """`samples` in their order, None where too short (`FEWEST_BLOCKS`); p of all together, means over the samples.

    The held-out figures are means over held-out windows of the very same length, and `more_usage_p`, `more_range_p` say
    how sure it is that the samples' means lie above them (samples and windows dealt out anew). None without such
    windows."""

    samples: list[Drift | None]
    usage_p: float | None
    entropy_p: float | None
    usage: float | None
    entropy_range: float | None
    held_usage: float | None
    held_range: float | None
    more_usage_p: float | None
    more_range_p: float | None


def drifts(samples: Sequence[NDArray[np.uint16]], held: Sequence[NDArray[np.uint16]], frame_rate: float) -> Drifts:
    """Of samples [T, K], with held-out windows beside them."""
    block = max(1, round(BLOCK_SECONDS * frame_rate))
    found: list[Drift | None] = []
    sums_2R = np.zeros((2, PERMUTATIONS + 1))
    for number, codes_TK in enumerate(samples):
        measured = _measured(codes_TK, block, number)
        if measured is None:
            found.append(None)
            continue
        drift, values_2R = measured
        found.append(drift)
        sums_2R += values_2R
    known = [one for one in found if one is not None]
    lengths = {len(codes_TK) // block for codes_TK, one in zip(samples, found, strict=True) if one is not None}
    beside = [
        figures
        for codes_TK in held
        if {len(codes_TK) // block} == lengths
        for figures in [_Blocks(codes_TK, block).thirds(np.arange(len(codes_TK) // block)[None])]
    ]
    held_usage = [float(usage_R[0]) for usage_R, _ in beside]
    held_range = [float(np.ptp(entropy_R3)) for _, entropy_R3 in beside]
    return Drifts(
        samples=found,
        usage_p=_p(sums_2R[0]) if known else None,
        entropy_p=_p(sums_2R[1]) if known else None,
        usage=float(np.mean([one.usage for one in known])) if known else None,
        entropy_range=float(np.mean([one.entropy_range for one in known])) if known else None,
        held_usage=float(np.mean(held_usage)) if beside else None,
        held_range=float(np.mean(held_range)) if beside else None,
        more_usage_p=_more([one.usage for one in known], held_usage) if beside else None,
        more_range_p=_more([one.entropy_range for one in known], held_range) if beside else None,
    )


def _measured(codes_TK: NDArray[np.uint16], block: int, number: int) -> tuple[Drift, NDArray[np.float64]] | None:
    """The figures of one sample, and [2, 1 + R]: both figures as they are, and for each permutation."""
    blocks = len(codes_TK) // block
    if blocks < FEWEST_BLOCKS:
        return None
    counted = _Blocks(codes_TK, block)
    rng = keyed.numpy_rng("memorised drift", number, blocks)
    orders = [np.arange(blocks), *(rng.permutation(blocks) for _ in range(PERMUTATIONS))]
    parts = [counted.thirds(np.stack(orders[at : at + _AT_ONCE])) for at in range(0, len(orders), _AT_ONCE)]
    usage_R, entropy_R3 = (np.concatenate(values) for values in zip(*parts, strict=True))
    range_R = np.ptp(entropy_R3, axis=1)
    one, two, three = (float(value) for value in entropy_R3[0])
    drift = Drift(float(usage_R[0]), (one, two, three), float(range_R[0]), _p(usage_R), _p(range_R))
    return drift, np.stack([usage_R, range_R])


class _Blocks:
    """Counts of the codes of each whole block; codes that do not occur have no column."""

    def __init__(self, codes_TK: NDArray[np.uint16], block: int) -> None:
        self.blocks, self.block = len(codes_TK) // block, block
        parts, self._edges = [], [0]
        for book in range(min(BOOKS, codes_TK.shape[1])):
            used, code_T = np.unique(codes_TK[: self.blocks * block, book], return_inverse=True)
            cell_T = np.repeat(np.arange(self.blocks), block) * len(used) + code_T
            parts.append(np.bincount(cell_T, minlength=self.blocks * len(used)).reshape(self.blocks, len(used)))
            self._edges.append(self._edges[-1] + len(used))
        self._counts_BU = np.concatenate(parts, axis=1).astype(np.float32)
        n = np.arange(self.blocks * block + 1, dtype=np.float64)
        self._n_ln_n = n * np.log(np.maximum(n, 1.0))

    def thirds(self, order_RB: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(divergence [R], entropies [R, 3]) of the thirds of each order of the blocks."""
        third_B = np.arange(self.blocks) * 3 // self.blocks
        member_R3B = np.zeros((len(order_RB), 3, self.blocks), dtype=np.float32)
        member_R3B[np.arange(len(order_RB))[:, None], third_B[None], order_RB] = 1.0
        frames_3 = np.bincount(third_B) * self.block
        each_R3 = self._entropy(member_R3B @ self._counts_BU, frames_3)
        whole = self._entropy(self._counts_BU.sum(axis=0)[None], np.asarray([self.blocks * self.block]))
        return whole[0] - each_R3 @ (frames_3 / frames_3.sum()), each_R3

    def _entropy(self, counts_U: NDArray[np.float32], frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean over the books of ln N - sum n ln n / N of counts [..., U] of N `frames` [...]."""
        terms_K = np.add.reduceat(self._n_ln_n[counts_U.astype(np.int64)], self._edges[:-1], axis=-1)
        return np.asarray(np.log(frames) - terms_K.mean(axis=-1) / frames)


def _p(values_R: NDArray[np.float64]) -> float:
    """Of the first value among all; equal ones (to rounding) count as reached."""
    return float((values_R >= values_R[0] - 1e-9 * abs(values_R[0]) - 1e-12).mean())


def _more(ours: list[float], theirs: list[float]) -> float:
    """One-sided p of the difference of two means, by dealing out the values anew."""
    values, n = np.asarray([*ours, *theirs]), len(ours)
    rng = keyed.numpy_rng("memorised drift beside", n, len(theirs))
    dealt = [values, *(rng.permutation(values) for _ in range(999))]
    return _p(np.asarray([one[:n].mean() - one[n:].mean() for one in dealt]))

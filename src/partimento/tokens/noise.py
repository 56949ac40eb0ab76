"""Noise is named as noise: books and clips whose codes cannot be told from chance.

A falling loss alone does not show that there is something to learn: 300 steps on random codes look much like the first
300 on music, since both learn the frequencies first. Here two things are asked of the codes themselves: do equal codes
return more often than if all codes were drawn alike, and do equal pairs of successive codes return more often than in
the same codes shuffled? (`entropy.uniformity` and `entropy.order`, chi-square tests in the form that still works
where pairs are rarely seen twice.) An answer is given only where the sample could have shown the opposite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from partimento.tokens import entropy
from partimento.tokens.clipwise import Group

SIGMAS = 4.0
FAINT_NATS = 0.01
"""An effect under this is none, however sure it is: hours of codes make anything significant."""
SEES_NATS = 0.15
"""A sample that would miss more than this says nothing."""
# The same for a single clip. The limit on order was put where a few sounds through the resident codec part: white noise
# 0.00 and 0.02 nats above its shuffle, a tone in as much noise 0.08, hiss 0.15; a tabla stroke 0.35, all others 0.5 and
# more. Another codec may part them elsewhere.
CLIP_UNIFORM_NATS, CLIP_ORDER_NATS, CLIP_SEES_NATS = 0.05, 0.2, 0.25

Kind = Literal["ordered", "orderless", "uniform", "constant", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """`kind` of a book: "uniform" (not told from codes drawn alike), "orderless" (uneven, but the code before tells
    nothing), "constant" (one code, nearly always), "ordered", or "unknown" (too few codes to say).

    `uniform` and `order` in nats above chance, None where undefined; `blind` is what the order test could have missed;
    `mutual` the mutual information of successive codes above chance."""

    kind: Kind
    uniform: float | None
    order: float | None
    blind: float | None
    mutual: float | None


def judge(n_V: NDArray[np.int64], n_VV: NDArray[np.int64] | None) -> Verdict:
    """The verdict on a book by its counts; without pair counts (a book too large for them) only uniformity is tested
    and nothing is called noise."""
    uniform = entropy.uniformity(n_V)
    if n_VV is None or not n_VV.any():
        return Verdict("unknown", _finite(uniform.nats), None, None, None)
    order, mutual = entropy.order(n_VV), entropy.excess_mutual(n_VV)
    pairs = int(n_VV.sum())
    wobble = SIGMAS * len(n_V) / (math.sqrt(2) * pairs)  # of the mutual information; the G-test's chi-square
    kind: Kind = "ordered"
    if float(n_V.max()) > 0.99 * n_V.sum():
        kind = "constant"
    elif _none(order) and mutual - wobble < 2 * FAINT_NATS:
        kind = "unknown" if order.blind > SEES_NATS else "uniform" if _none(uniform) else "orderless"
    return Verdict(kind, _finite(uniform.nats), _finite(order.nats), _finite(order.blind), mutual)


def _none(effect: entropy.Agreement) -> bool:
    return effect.z < SIGMAS or effect.nats < FAINT_NATS


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class ClipNoise:
    """For each clip, over all its books: do equal codes, and equal pairs of successive codes, return more often than
    in codes that are drawn alike, or in the same codes shuffled? Music is far above both."""

    def __init__(self, clips: int, cardinalities: Sequence[int]) -> None:
        self._cardinalities = cardinalities
        self._uniform_C2, self._order_C2 = np.zeros((2, clips, 2))  # seen, by chance

    def add(self, group: Group) -> None:
        sizes = np.diff(group.starts)
        clip_N = np.repeat(np.arange(len(sizes)), sizes)
        joined = np.ones(len(clip_N) - 1, dtype=bool)
        joined[group.starts[1:-1] - 1] = False
        uniform_C2, order_C2 = np.zeros((2, len(sizes), 2))
        for book, V in enumerate(self._cardinalities):
            code_N = clip_N * V + group.codes_NK[:, book]
            n_CV = np.bincount(code_N, minlength=len(sizes) * V).reshape(-1, V)
            uniform_C2 += np.stack([_couples(n_CV), sizes * (sizes - 1) / (2 * V)], axis=1)
            before_CV, after_CV = n_CV.copy(), n_CV
            before_CV.reshape(-1)[code_N[group.starts[1:] - 1]] -= 1
            after_CV.reshape(-1)[code_N[group.starts[:-1]]] -= 1
            pair_N = np.sort(code_N[:-1][joined] * V + group.codes_NK[1:, book][joined])
            if not len(pair_N):
                continue
            begin = np.flatnonzero(np.diff(pair_N, prepend=-1))
            n = np.diff(begin, append=len(pair_N)).astype(np.float64)
            seen_C = np.bincount(pair_N[begin] // (V * V), weights=n * (n - 1) / 2, minlength=len(sizes))
            chance_C = 2 * _couples(before_CV) * _couples(after_CV) / np.maximum(1, (sizes - 1) * (sizes - 2))
            order_C2 += np.stack([seen_C, chance_C], axis=1)
        self._uniform_C2[group.rows], self._order_C2[group.rows] = uniform_C2, order_C2

    def found(self) -> dict[int, dict[str, Any]]:
        """Clips that are noise: {"kind": "uniform" or "orderless", "uniform": nats above codes drawn alike, "order":
        nats above the same codes shuffled}. Only where the clip is long enough to tell; a few seconds of nine books of
        1024 codes are. A clip that hardly uses two codes of a book is silence, and no noise.
        """
        uniform_C, order_C = _nats(self._uniform_C2), _nats(self._order_C2)
        blind_uniform_C, blind_order_C = _blind(self._uniform_C2), _blind(self._order_C2)
        alike_C = np.abs(uniform_C) < np.maximum(CLIP_UNIFORM_NATS, blind_uniform_C)
        alike_C &= blind_uniform_C < CLIP_SEES_NATS
        # Of short clips, order cannot be denied, but it can be plain: then even frequencies are a tune's, not noise's.
        alike_C &= ~((order_C >= CLIP_ORDER_NATS) & (_sigmas(self._order_C2) >= SIGMAS))
        tells_C = blind_order_C < CLIP_SEES_NATS
        silent_C = uniform_C > math.log(max(self._cardinalities) / 2)
        shuffled_C = (np.abs(order_C) < CLIP_ORDER_NATS) & tells_C & ~silent_C
        return {
            int(clip): {
                "kind": "uniform" if alike_C[clip] else "orderless",
                "uniform": float(uniform_C[clip]),
                "order": float(order_C[clip]) if tells_C[clip] else None,
            }
            for clip in np.flatnonzero(alike_C | shuffled_C)
        }


def _blind(agreement_C2: NDArray[np.float64]) -> NDArray[np.float64]:
    """`Agreement.blind` with the least variance: that of the expected number."""
    return np.log1p(SIGMAS / np.sqrt(np.maximum(1.0, agreement_C2[:, 1])))


def _sigmas(agreement_C2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of what was seen beyond chance, by the same variance."""
    return (agreement_C2[:, 0] - agreement_C2[:, 1]) / np.sqrt(np.maximum(1.0, agreement_C2[:, 1]))


def _nats(agreement_C2: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(agreement_C2[:, 0] / agreement_C2[:, 1])


def _couples(n_CV: NDArray[np.int64]) -> NDArray[np.float64]:
    return (n_CV * (n_CV - 1)).sum(axis=1) / 2.0

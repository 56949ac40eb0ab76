"""Frames as numbers: one integer a frame for the first b books, hashes of n successive frames, and which frames inform.

Silence, held sounds and the commonest codes agree with any clip, so a copied run is counted in the frames that inform:
those whose codes are not the codes of the frame before, and whose surprisal in the training split is at least half of
the mean. The surprisal of a frame is -sum ln p over the first b books, p = (count + 1) / (frames + V).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.tokens import entropy
from partimento.tokens.pack import Pack

COUNTED_FRAMES = 2_000_000  # of the training split, whole clips in keyed order
SHARE = 0.5  # of the mean surprisal, from which on a frame informs
_ODD = np.uint64(0x9E3779B97F4A7C15)
_WORD = 4  # codes of 16 bits in a number of 64

Hashes = NDArray[np.uint64]


def symbols(codes_NK: NDArray[np.uint16], books: int) -> Hashes:
    """[N]: one number a frame, of its first `books` codes. Up to four books it is the codes themselves, so that equal
    numbers are equal frames; of more it is a hash, and who reports a run compares the codes themselves."""
    mixed = _word(codes_NK, 0, min(books, _WORD))
    for first in range(_WORD, books, _WORD):
        mixed *= np.uint64(keyed.key("memorised", first) | 1)
        mixed ^= mixed >> np.uint64(31)
        mixed += _word(codes_NK, first, min(books, first + _WORD))
    return mixed


def _word(codes_NK: NDArray[np.uint16], first: int, last: int) -> Hashes:
    """Up to four successive books as one number."""
    word = codes_NK[:, first].astype(np.uint64)
    for book in range(first + 1, last):
        word <<= np.uint64(16)
        word |= codes_NK[:, book]
    return word


def ngrams(symbol_N: Hashes, length: int) -> Hashes:
    """[N - length + 1]: a hash of the `length` frames that begin at each place, put together from powers of two."""
    count = len(symbol_N) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    power, size, part = _mixed(symbol_N.copy()), 1, None
    at = 0
    while True:
        if length & size:
            piece = power[at : at + count]
            part = piece.copy() if part is None else _mixed(part * _ODD + piece)
            at += size
        size *= 2
        if size > length:
            assert part is not None
            return part
        power = _mixed(power[: len(power) - size // 2] * _ODD + power[size // 2 :])


def _mixed(value: Hashes) -> Hashes:
    """Two rounds of multiply and shift, in place: every bit of a frame reaches the top bits, which the filter reads."""
    value *= _ODD
    value ^= value >> np.uint64(32)
    value *= _ODD
    return value


@dataclass(frozen=True)
class Surprise:
    """`nats_KV[k][v]`: the surprisal of code v of book k in the training split; `mean_K` its mean there."""

    nats_KV: NDArray[np.float32]
    mean_K: NDArray[np.float64]

    def informs(self, codes_NK: NDArray[np.uint16], starts: NDArray[np.int64], books: int) -> NDArray[np.bool_]:
        """[N]: which frames inform; `starts` are where clips begin, whose first frames have none before them."""
        nats_N = np.zeros(len(codes_NK), dtype=np.float32)
        for book in range(books):
            nats_N += self.nats_KV[book][codes_NK[:, book]]
        fresh_N = np.ones(len(codes_NK), dtype=bool)
        fresh_N[1:] = (codes_NK[1:, :books] != codes_NK[:-1, :books]).any(axis=1)
        fresh_N[starts[starts < len(fresh_N)]] = True
        return fresh_N & (nats_N >= SHARE * float(self.mean_K[:books].sum()))


def surprise(pack: Pack, train: NDArray[np.int64]) -> Surprise:
    """Counted on whole clips of the training split in keyed order, up to `COUNTED_FRAMES`."""
    V = pack.spec.cardinality
    count_KV = np.zeros((pack.spec.codebooks, V), dtype=np.int64)
    for index in range(len(train)):
        clip = int(train[keyed.permute(index, len(train), "memorised surprise")])
        count_KV += entropy.counts(pack.read(clip), V)
        if count_KV[0].sum() >= COUNTED_FRAMES:
            break
    total = int(count_KV[0].sum())
    # Books of fewer codes than V leave columns that no code reaches: they are not part of the smoothing.
    sizes_K = np.asarray(pack.spec.cardinalities)[:, None]
    nats_KV = -np.log((count_KV + 1.0) / (total + sizes_K))
    mean_K = (count_KV * nats_KV).sum(axis=1) / max(1, total)
    return Surprise(nats_KV.astype(np.float32), mean_K)

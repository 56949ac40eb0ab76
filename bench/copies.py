"""How much of what was played stands in the training codes word for word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partimento.tokens.spec import CodecSpec

NGRAM = 8  # frames, about a tenth of a second


class Copies:
    """Looks up runs of frames in the clips [T, K] that a model learned from."""

    def __init__(self, clips: Sequence[NDArray[np.integer]]) -> None:
        self.clips = [np.asarray(codes_TK, np.uint16) for codes_TK in clips]
        self._known: dict[tuple[int, int], set[bytes]] = {}
        # The first books of all clips, a number that is no code before each.
        parts = [part for codes_TK in self.clips for part in (np.array([-1]), codes_TK[:, 0].astype(np.int64))]
        self._books_N = np.concatenate(parts)

    def figures(self, played: Sequence[NDArray[np.integer]], spec: CodecSpec) -> dict[str, float]:
        """Means over the items that are long enough: share of n-grams known, of the first book and of all together;
        and the longest run of the first book that a clip holds, in seconds."""
        items = [np.asarray(codes_TK, np.uint16) for codes_TK in played if len(codes_TK) >= NGRAM]
        return {
            "first_book": float(np.mean([self._share(codes_TK[:, :1], NGRAM) for codes_TK in items])),
            "all_books": float(np.mean([self._share(codes_TK, NGRAM) for codes_TK in items])),
            "longest_seconds": float(np.mean([spec.seconds(self._longest(codes_TK[:, 0])) for codes_TK in items])),
        }

    def _share(self, codes_TB: NDArray[np.uint16], length: int) -> float:
        known = self._ngrams(codes_TB.shape[1], length)
        grams = _grams(codes_TB, length)
        return sum(gram in known for gram in grams) / len(grams) if grams else 0.0

    def _longest(self, played_T: NDArray[np.uint16]) -> int:
        """`run_N[n]` is how far what was played up to now agrees, backwards, with the clips up to their place n."""
        longest, run_N = 0, np.zeros(len(self._books_N), np.int32)
        for code in played_T:
            run_N[1:] = np.where(self._books_N[1:] == code, run_N[:-1] + 1, 0)
            longest = max(longest, int(run_N.max()))
        return longest

    def _ngrams(self, books: int, length: int) -> set[bytes]:
        if (books, length) not in self._known:
            every = (gram for codes_TK in self.clips for gram in _grams(codes_TK[:, :books], length))
            self._known[books, length] = set(every)
        return self._known[books, length]


def _grams(codes_TB: NDArray[np.uint16], length: int) -> list[bytes]:
    flat, step = np.ascontiguousarray(codes_TB).tobytes(), 2 * codes_TB.shape[1]
    return [flat[at * step : (at + length) * step] for at in range(len(codes_TB) - length + 1)]

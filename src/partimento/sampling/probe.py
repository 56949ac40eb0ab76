"""What was played, in numbers, per codebook: entropy, coverage, distance from the data's codes, repetition.

Plain numpy on codes_TK (integers, no specials). Entropies and divergences in nats. Silence is measured on the audio.
Shapes: T frames, K codebooks, V cardinality.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.tokens import entropy as measure

NGRAM = 8
"""frames in an n-gram: about a tenth of a second at 86 frames/s, too long to return by chance"""


@dataclass(frozen=True)
class Probe:
    """Lists of K values, coarse to fine; `*_frames` are about whole frames (all codebooks together)."""

    frames: int
    entropy_K: list[float]
    coverage_K: list[float]
    unigram_kl_K: list[float] | None
    repetition_K: list[float]
    longest_repeat_K: list[int]
    repetition_frames: float
    longest_repeat_frames: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def probe(codes_TK: NDArray[np.integer], cardinality: int, counts_KV: NDArray | None = None) -> Probe:
    """All figures of one item; `counts_KV` are the counts of the training data's codes, if known."""
    books = codes_TK.T
    frames = frame_ids(codes_TK)
    return Probe(
        frames=len(codes_TK),
        entropy_K=entropy(codes_TK, cardinality).tolist(),
        coverage_K=coverage(codes_TK, cardinality).tolist(),
        unigram_kl_K=None if counts_KV is None else unigram_kl(codes_TK, counts_KV).tolist(),
        repetition_K=[repetition(book) for book in books],
        longest_repeat_K=[longest_repeat(book) for book in books],
        repetition_frames=repetition(frames),
        longest_repeat_frames=longest_repeat(frames),
    )


def entropy(codes_TK: NDArray[np.integer], cardinality: int) -> NDArray[np.float64]:
    """[K]: nats of the codes' own frequencies, at most ln(min(T, V)); NaN without a frame. Raises ValueError as
    `tokens.entropy.counts` does."""
    return measure.entropy(measure.counts(codes_TK, cardinality))


def coverage(codes_TK: NDArray[np.integer], cardinality: int) -> NDArray[np.float64]:
    """[K]: share of the V codes that occur at least once."""
    return measure.coverage(measure.counts(codes_TK, cardinality))


def unigram_kl(codes_TK: NDArray[np.integer], counts_KV: NDArray) -> NDArray[np.float64]:
    """[K]: KL(played || data), finite."""
    return measure.divergence(measure.counts(codes_TK, counts_KV.shape[1]), counts_KV)


def frame_ids(codes_TK: NDArray[np.integer]) -> NDArray[np.int64]:
    """[T]: a number for each frame, equal for equal frames."""
    return np.unique(codes_TK, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def repetition(sequence_T: NDArray[np.integer], length: int = NGRAM) -> float:
    """Share of the n-grams that occurred before in the same sequence; NaN if it is shorter than one n-gram."""
    places = len(sequence_T) - length + 1
    if places < 1:
        return float("nan")
    ngrams = np.lib.stride_tricks.sliding_window_view(sequence_T, length)
    return 1.0 - len(np.unique(ngrams, axis=0)) / places


def longest_repeat(sequence_T: NDArray[np.integer]) -> int:
    """Length of the longest run that occurs at two places (which may overlap); 0 if no element returns.

    Runs of length L get a number each, equal for equal runs; runs of L + 2**j from those of L and 2**j. The greatest L
    with two equal runs is then found bit by bit, in O(T log^2 T).
    """
    doubled = [_renumber(np.asarray(sequence_T, dtype=np.int64))]
    while _repeats(doubled[-1]) and len(doubled[-1]) > 2 ** (len(doubled) - 1):
        half = 2 ** (len(doubled) - 1)
        doubled.append(_joined(doubled[-1], doubled[-1], half))
    length, runs = 0, None
    for bit in reversed(range(len(doubled))):
        longer = doubled[bit] if runs is None else _joined(runs, doubled[bit], length)
        if _repeats(longer):
            length, runs = length + 2**bit, longer
    return length


def _renumber(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _joined(left: NDArray[np.int64], right: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Numbers of the runs that are a left run followed, `shift` later, by a right run."""
    n = min(len(left), len(right) - shift)
    if n < 1:
        return np.empty(0, dtype=np.int64)
    return _renumber(left[:n] * (int(right.max()) + 1) + right[shift : shift + n])


def _repeats(numbers: NDArray[np.int64]) -> bool:
    return len(numbers) > 0 and int(numbers.max()) + 1 < len(numbers)

"""How different the samples are from one another, with held-out music of the same length and number beside them.

One kernel for all: k(a, b) = mean over the books of sum_v sqrt(p_a(v) p_b(v)), p being a sample's own code frequencies
(Bhattacharyya's coefficient). It is 1 for equal usage, 0 for no code in common, and positive definite. The distance is
1 - k. The Vendi score is exp of the entropy of the eigenvalues of k / n (Friedman and Dieng, "The Vendi score",
TMLR 2023, arXiv 2210.02410): the number of samples that are really different, 1 to n. Short samples have few codes in
common even where they are of one piece, so the figures say little by themselves, and are held against the data's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento.tokens import entropy

NGRAM = 4  # frames of the first book


@dataclass(frozen=True)
class Diversity:
    """Of `n` samples, each cut to `frames`. `within` is the mean distance of two samples of one prompt and setting,
    `across` of two prompts at one setting (None where there is no such pair); `distinct` the share of n-grams of the
    first book that are different. The held-out figures are of as many windows of that length (None: too few)."""

    n: int
    frames: int
    distance: float | None
    within: float | None
    across: float | None
    vendi: float
    distinct: float
    held_distance: float | None
    held_vendi: float | None
    held_distinct: float | None


def diversity(
    samples: Sequence[NDArray[np.uint16]],
    prompts: Sequence[str | None],
    settings: Sequence[str | None],
    held: Sequence[NDArray[np.uint16]],
    cardinality: int,
) -> Diversity:
    frames = min(map(len, samples))
    if held:
        frames = min(frames, len(held[0]))
    kernel_NN = _kernel([one[:frames] for one in samples], cardinality)
    first, second = np.triu_indices(len(samples), 1)
    distance = 1 - kernel_NN[first, second]
    same_setting, same_prompt = _same(settings)[first, second], _same(prompts)[first, second]
    beside = [one[:frames] for one in held[: len(samples)]] if len(held) >= len(samples) else []
    held_NN = _kernel(beside, cardinality) if beside else None
    return Diversity(
        n=len(samples),
        frames=frames,
        distance=_mean(distance),
        within=_mean(distance[same_setting & same_prompt]),
        across=_mean(distance[same_setting & ~same_prompt]),
        vendi=vendi(kernel_NN),
        distinct=distinct([one[:frames] for one in samples]),
        held_distance=None if held_NN is None else _mean(1 - held_NN[first, second]),
        held_vendi=None if held_NN is None else vendi(held_NN),
        held_distinct=distinct(beside) if beside else None,
    )


def _same(names: Sequence[str | None]) -> NDArray[np.bool_]:
    """[N, N]: which two have one name."""
    _, number_N = np.unique([name or "" for name in names], return_inverse=True)
    return np.asarray(number_N[:, None] == number_N[None])


def _kernel(samples: Sequence[NDArray[np.uint16]], cardinality: int) -> NDArray[np.float64]:
    total_NN = np.zeros((len(samples), len(samples)))
    books = samples[0].shape[1]
    for book in range(books):
        counts_NV = np.concatenate([entropy.counts(one[:, book : book + 1], cardinality) for one in samples])
        root_NV = np.sqrt(counts_NV / counts_NV.sum(axis=1, keepdims=True))
        total_NN += root_NV @ root_NV.T
    return np.asarray(total_NN / books)


def vendi(kernel_NN: NDArray[np.float64]) -> float:
    """exp(-sum l ln l) over the eigenvalues l of the kernel over n; the kernel's diagonal is 1."""
    values = np.linalg.eigvalsh(kernel_NN / len(kernel_NN))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def distinct(samples: Sequence[NDArray[np.uint16]]) -> float:
    """Different n-grams of the first book over all n-grams, over all samples."""
    grams = [np.lib.stride_tricks.sliding_window_view(one[:, 0], NGRAM) for one in samples if len(one) >= NGRAM]
    every = np.concatenate(grams)
    return len(np.unique(every, axis=0)) / len(every)


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None

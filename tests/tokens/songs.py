"""Codes that behave like music: a palette of frames for each song, phrases that return, finer books more by chance."""

from fractions import Fraction

import numpy as np

from partimento.tokens.spec import CodecSpec

SPEC = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (64, 64, 64))


def song(frames, seed, *, cardinality=64, books=3, loose=(0.02, 0.5)):
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, cardinality, (24, books))
    follows = rng.integers(0, 24, (24, 4))
    rows, state = [], int(rng.integers(24))
    for _ in range(frames):
        codes = palette[state].copy()
        free = rng.random(books) < np.linspace(*loose, books)
        codes[free] = rng.integers(0, cardinality, free.sum())
        rows.append(codes)
        if rng.random() < 0.7:
            state = int(follows[state, rng.integers(4)])
    return np.array(rows).reshape(-1, books)

"""The audit's alignment against the whole dynamic programme, cell by cell, and its law against scipy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.lab.memorised.align import NOTHING, heads, scores, trace
from partimento.lab.memorised.pvalues import fit

codes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=14)


def slow(sample, informs, clip):
    """Smith and Waterman's table in plain Python: the best score of any local alignment."""
    best = 0
    table = [[0] * (len(clip) + 1) for _ in range(len(sample) + 1)]
    for i, ours in enumerate(sample, 1):
        for j, theirs in enumerate(clip, 1):
            if ours == theirs:
                worth = 1 if informs[i - 1] else 0
            else:
                worth = 0 if ours[0] == theirs[0] else -1
            table[i][j] = max(0, table[i - 1][j - 1] + worth, table[i - 1][j] - 2, table[i][j - 1] - 2)
            best = max(best, table[i][j])
    return best


def whole_band(sample, clip):
    """What `scores` takes where the band is all of the table."""
    T, low = len(sample), -(len(sample) - 1)
    width = len(sample) + len(clip) - 1
    sample_T = heads(np.asarray(sample, np.uint16))
    clip_X = np.full(T + width - 1, NOTHING, np.uint64)
    clip_X[-low : -low + len(clip)] = heads(np.asarray(clip, np.uint16))
    return sample_T, clip_X, low


@settings(max_examples=300, deadline=None)
@given(codes, codes, st.randoms(use_true_random=False))
def test_the_band_of_all_diagonals_is_the_whole_programme(sample, clip, random):
    informs = [random.random() < 0.8 for _ in sample]
    sample_T, clip_X, low = whole_band(sample, clip)
    expected = slow(sample, informs, clip)
    arguments = sample_T[None], np.asarray(informs)[None], clip_X[None]
    assert scores(*arguments).tolist() == [expected]
    (found,) = trace(*arguments, [low])
    if expected == 0:
        assert found is None
        return
    assert found.score == expected == found.matches - found.mismatches - 2 * found.gaps
    check_path(found, sample, informs, clip)


def check_path(found, sample, informs, clip):
    """The path says what the frames are."""
    i, j = found.sample_first, found.clip_first
    for step in found.path:
        if step == "i":
            i += 1
            continue
        if step == "d":
            j += 1
            continue
        equal = sample[i] == clip[j]
        assert step == (("=" if informs[i] else "-") if equal else "~" if sample[i][0] == clip[j][0] else "x")
        i, j = i + 1, j + 1
    assert (i, j) == (found.sample_last, found.clip_last)


def test_a_long_planted_alignment_is_that_of_the_whole_programme():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 30, (160, 2))
    sample = np.concatenate([rng.integers(0, 30, (20, 2)), clip[40:80], clip[83:120], rng.integers(0, 30, (15, 2))])
    noisy = rng.random(sample.shape) < 0.1
    sample[noisy] = rng.integers(0, 30, int(noisy.sum()))
    ours, theirs = [tuple(row) for row in sample.tolist()], [tuple(row) for row in clip.tolist()]
    expected = slow(ours, [True] * len(ours), theirs)
    sample_T = heads(sample.astype(np.uint16))
    low, width = 20 - 16, 48  # a band around diagonal 20
    clip_X = np.full(len(sample) + width - 1, NOTHING, np.uint64)
    known = heads(clip.astype(np.uint16))[low : low + len(clip_X)]
    clip_X[: len(known)] = known
    informs = np.ones((2, len(sample)), bool)
    both = np.stack([sample_T, sample_T]), informs, np.stack([clip_X, np.full_like(clip_X, NOTHING)])
    assert scores(*both).tolist() == [expected, 0]
    found, nothing = trace(*both, [low, low])
    assert nothing is None and found.score == expected > 40
    check_path(found, ours, informs[0], theirs)


def test_the_law_is_scipys_with_a_safe_scale():
    stats = pytest.importorskip("scipy.stats")
    values = np.rint(stats.gumbel_r.rvs(20, 4, size=150, random_state=1)).tolist()
    place, scale = stats.gumbel_r.fit(values)
    found = fit(values)
    assert found.place == pytest.approx(place, rel=1e-3)
    assert found.scale == pytest.approx(scale * (1 + 1.6449 * np.sqrt(6) / np.pi / np.sqrt(150)), rel=1e-3)
    assert found.beyond(40) == pytest.approx(stats.gumbel_r.sf(39.5, found.place, found.scale), rel=1e-9)

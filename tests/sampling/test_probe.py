from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partimento.sampling import probe as module


def test_entropy_and_coverage() -> None:
    codes = np.array([[0, 0], [1, 0], [2, 0], [3, 0]])
    np.testing.assert_allclose(module.entropy(codes, 8), [math.log(4), 0])
    np.testing.assert_allclose(module.coverage(codes, 8), [0.5, 0.125])
    codes = np.array([[0], [0], [0], [5]])
    np.testing.assert_allclose(module.entropy(codes, 8), [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))])
    assert np.isnan(module.entropy(np.zeros((0, 2), dtype=int), 8)).all()


def test_unigram_kl() -> None:
    codes = np.array([[0], [0], [1], [1]])
    counts = np.array([[9, 29, 0, 0]])  # q = (10, 30, 1, 1) / 42
    expected = 0.5 * math.log(0.5 / (10 / 42)) + 0.5 * math.log(0.5 / (30 / 42))
    np.testing.assert_allclose(module.unigram_kl(codes, counts), [expected])
    np.testing.assert_allclose(module.unigram_kl(codes, np.array([[1, 1, 0, 0]]) * 10**9), [0], atol=1e-6)
    assert np.isfinite(module.unigram_kl(np.array([[3]]), counts)).all()


def test_ids_that_are_no_codes_are_an_error() -> None:
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="not codes"):
            module.entropy(np.array([[wrong]]), 4)


def test_repetition() -> None:
    assert module.repetition(np.zeros(11, dtype=int), 4) == pytest.approx(7 / 8)  # 8 n-grams, one new
    assert module.repetition(np.arange(11), 4) == 0
    assert module.repetition(np.tile(np.arange(5), 4), 5) == pytest.approx(1 - 5 / 16)
    assert math.isnan(module.repetition(np.arange(3), 4))


def test_longest_repeat() -> None:
    assert module.longest_repeat(np.arange(50)) == 0
    assert module.longest_repeat(np.zeros(50, dtype=int)) == 49
    assert module.longest_repeat(np.concatenate([np.arange(20), [99], np.arange(3, 17), [98]])) == 14
    assert module.longest_repeat(np.array([], dtype=int)) == 0


@given(st.lists(st.integers(0, 2), max_size=40))
def test_longest_repeat_against_the_slow_search(values: list[int]) -> None:
    slow = 0
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            n = 0
            while j + n < len(values) and values[i + n] == values[j + n]:
                n += 1
            slow = max(slow, n)
    assert module.longest_repeat(np.array(values, dtype=int)) == slow


def test_probe_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    bar = rng.integers(0, 64, (32, 3))
    got = module.probe(np.tile(bar, (4, 1)), 64, np.ones((3, 64)))
    assert got.frames == 128 and got.longest_repeat_frames == 96
    assert got.repetition_frames == pytest.approx(1 - 32 / 121)
    assert min(got.longest_repeat_K) >= 96 and len(got.unigram_kl_K) == 3
    assert got.to_json()["frames"] == 128
    fresh = module.probe(rng.integers(0, 64, (128, 3)), 64)
    assert fresh.unigram_kl_K is None and fresh.repetition_frames == 0 and fresh.longest_repeat_frames <= 1

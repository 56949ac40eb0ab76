"""Noise is named as noise, music is not, and nothing is said where the sample could not tell."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from songs import song

from partimento.tokens import clipwise, noise
from partimento.tokens.spec import CodecSpec


def tables(codes, V):
    return np.bincount(codes, minlength=V), np.bincount(codes[:-1] * V + codes[1:], minlength=V * V).reshape(V, V)


def judge(codes, V):
    return noise.judge(*tables(np.asarray(codes), V))


@pytest.mark.parametrize("V", [16, 256, 1024])
def test_uniform_codes_are_named(V):
    for seed in range(5):
        assert judge(np.random.default_rng(seed).integers(0, V, 70 * V), V).kind == "uniform"


@pytest.mark.parametrize("V", [64, 1024])
def test_uneven_codes_in_random_order_have_no_order(V):
    rng = np.random.default_rng(V)
    weights = 1 / np.arange(1, V + 1)
    for _ in range(5):
        found = judge(rng.choice(V, 60_000, p=weights / weights.sum()), V)
        assert found.kind == "orderless" and found.uniform > 0.5


def test_songs_are_ordered_in_every_book_and_shuffled_songs_in_none():
    clips = [song(500, seed, cardinality=256, loose=(0.1, 0.7)) for seed in range(60)]
    codes_TK = np.concatenate(clips)
    shuffled = np.random.default_rng(0).permutation(codes_TK)
    for book in range(3):
        assert judge(codes_TK[:, book], 256).kind == "ordered"
        assert judge(shuffled[:, book], 256).kind == "orderless"


def test_a_faint_chain_is_found_only_where_the_sample_allows():
    """A code follows its predecessor one time in ten, which a sample of 150 codes cannot show."""
    rng = np.random.default_rng(3)
    follow, free = rng.random(100_000) < 0.1, rng.integers(0, 256, 100_000)
    codes = [0]
    for yes, other in zip(follow, free, strict=True):
        codes.append((codes[-1] + 1) % 256 if yes else int(other))
    assert judge(codes, 256).kind == "ordered"
    assert judge(codes[:150], 256).kind == "unknown"


def test_degenerate_books():
    assert judge(np.full(5000, 3), 16).kind == "constant"
    assert judge([3], 16).kind == "unknown"
    n_V = np.bincount(np.random.default_rng(0).integers(0, 16, 9000), minlength=16)
    assert noise.judge(n_V, None).kind == "unknown"


def of_clips(clips, cardinalities):
    found = noise.ClipNoise(len(clips), cardinalities)
    for number in range(0, len(clips), 3):
        part = clips[number : number + 3]
        starts = np.cumsum([0, *map(len, part)])
        found.add(clipwise.Group(np.arange(number, number + len(part)), np.concatenate(part), starts))
    return found


def test_clips_of_noise_among_music():
    V = 512
    rng = np.random.default_rng(1)
    music = [song(600, seed, cardinality=V, books=6, loose=(0.05, 0.6)) for seed in range(8)]
    uniform = [rng.integers(0, V, (600, 6)) for _ in range(3)]
    shuffled = [rng.permutation(song(600, seed, cardinality=V, books=6)) for seed in range(2)]
    silence = [np.full((600, 6), 5), np.repeat(rng.integers(0, V, (3, 6)), 200, axis=0)]
    short = [rng.integers(0, V, (20, 6)), rng.integers(0, V, (1, 6))]
    found = of_clips([*music, *uniform, *shuffled, *silence, *short], (V,) * 6).found()
    assert {clip: one["kind"] for clip, one in found.items()} == {
        8: "uniform", 9: "uniform", 10: "uniform", 11: "orderless", 12: "orderless"
    }  # fmt: skip


def test_clip_figures_are_those_of_the_definition():
    """Couples of equal codes and pairs, counted one against one."""
    rng = np.random.default_rng(5)
    clips = [rng.integers(0, 6, (n, 2)) for n in (2, 9, 30, 17)]
    found = of_clips(clips, (6, 6))
    for number, codes_TK in enumerate(clips):
        uniform, order = np.zeros(2), np.zeros(2)
        for column in codes_TK.T.tolist():
            n, pairs = len(column), list(itertools.pairwise(column))
            uniform += sum(column[i] == column[j] for i in range(n) for j in range(i)), n * (n - 1) / 12
            m = len(pairs)
            same = [sum(pairs[i][k] == pairs[j][k] for i in range(m) for j in range(i)) for k in (0, 1)]
            order += sum(pairs[i] == pairs[j] for i in range(m) for j in range(i)), 0
            order[1] += same[0] * same[1] / (m * (m - 1) / 2) if m > 1 else 0
        np.testing.assert_allclose(found._uniform_C2[number], uniform)
        np.testing.assert_allclose(found._order_C2[number], order)


def test_a_codec_of_random_weights_on_noise_gives_no_order():
    """Frames of white noise, each put to its nearest random vector: uneven codes, and nothing between frames."""
    rng = np.random.default_rng(0)
    spec = CodecSpec("random", "0" * 64, 8000, Fraction(50), (64, 64))
    projection = rng.normal(size=(160, 8))
    residual = rng.normal(size=(40_000, 160)) @ projection
    for _ in range(spec.codebooks):
        vectors = rng.normal(size=(64, 8)) * residual.std()
        nearest = ((residual[:, None, :] - vectors) ** 2).sum(2).argmin(1)
        assert judge(nearest, 64).kind == "orderless"
        residual = residual - vectors[nearest]

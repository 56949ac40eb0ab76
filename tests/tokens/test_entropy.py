"""Entropies against scipy and closed forms; what is said of chance against actual shuffles."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from partimento.tokens import entropy as module

COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(any)


def pairs(before, after, V):
    return np.bincount(np.asarray(before) * V + after, minlength=V * V).reshape(V, V)


@given(COUNTS)
def test_entropy_is_scipys(counts):
    assert module.entropy(counts) == pytest.approx(scipy.stats.entropy(counts), abs=1e-12)
    assert module.perplexity(module.entropy(counts)) == pytest.approx(math.exp(scipy.stats.entropy(counts)))
    assert module.coverage(counts) == np.mean(np.asarray(counts) > 0)


@given(COUNTS, st.integers(0, 2**31))
def test_divergence_is_scipys(counts, seed):
    other = np.random.default_rng(seed).integers(0, 9, len(counts))
    expected = scipy.stats.entropy(counts, other + 1)
    assert module.divergence(counts, other) == pytest.approx(expected, abs=1e-12)


def test_nothing_counted_is_nan_and_known_cases_are_exact():
    assert math.isnan(module.entropy([0, 0])) and math.isnan(module.miller_madow([0, 0]))
    assert module.entropy([[1, 1, 1, 1], [4, 0, 0, 0]]) == pytest.approx([math.log(4), 0])
    assert module.miller_madow([3, 1]) == pytest.approx(module.entropy([3, 1]) + 1 / 8)
    assert module.miller_madow([1, 1, 1, 1]) == math.log(4)  # never above what V codes can hold


def test_miller_madow_takes_most_of_the_bias_off():
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, 64, 400), minlength=64) for _ in range(200)]
    plain, corrected = (np.mean([f(n) for n in drawn]) - math.log(64) for f in (module.entropy, module.miller_madow))
    assert plain == pytest.approx(-63 / 800, rel=0.1) and abs(corrected) < 0.1 * abs(plain)


def test_mutual_information_of_known_tables():
    assert module.mutual(np.diag([5, 5, 5, 5])) == pytest.approx(math.log(4))
    assert module.mutual(np.outer([1, 2, 3], [4, 5, 6])) == pytest.approx(0, abs=1e-12)
    table = np.array([[30, 10], [10, 30]])
    bits = math.log(2) - scipy.stats.entropy([0.75, 0.25])  # a binary symmetric channel
    assert module.mutual(table) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("V", "draws", "skew"), [(2, 300, 0), (8, 300, 1), (64, 1000, 1), (256, 1500, 0), (256, 200, 2)]
)
def test_chance_mutual_is_the_mean_over_shuffles(V, draws, skew):
    """From many pairs a cell to nearly all cells empty, on even and on uneven codes."""
    rng = np.random.default_rng(V + draws)
    weights = 1 / np.arange(1, V + 1) ** skew
    before, after = rng.choice(V, (2, draws), p=weights / weights.sum())
    shuffled = [module.mutual(pairs(before, rng.permutation(after), V)) for _ in range(200)]
    spread = np.std(shuffled) / math.sqrt(200)
    got = module.chance_mutual(pairs(before, after, V))
    assert abs(got - np.mean(shuffled)) < 4 * spread + 0.02 * np.mean(shuffled)


def test_chance_mutual_with_many_pairs_is_the_chi_squares_mean():
    rng = np.random.default_rng(1)
    table = pairs(*rng.integers(0, 10, (2, 100_000)), 10)
    assert module.chance_mutual(table) == pytest.approx(81 / 200_000, rel=0.02)
    assert abs(module.excess_mutual(table)) < 4 * math.sqrt(81 / 2) / 100_000
    assert math.isnan(module.chance_mutual(np.zeros((3, 3), dtype=int)))


@pytest.mark.parametrize("V", [4, 32])
def test_excess_mutual_finds_what_a_chain_holds(V):
    """A code follows its predecessor with 0.7, else any code: the entropy rate is known."""
    rng = np.random.default_rng(V)
    codes = [0]
    for follow, other in zip(rng.random(60_000) < 0.7, rng.integers(0, V, 60_000), strict=True):
        codes.append((codes[-1] + 1) % V if follow else int(other))
    row = np.full(V, 0.3 / V)
    row[0] += 0.7
    truth = math.log(V) - scipy.stats.entropy(row)
    assert module.excess_mutual(pairs(codes[:-1], codes[1:], V)) == pytest.approx(truth, rel=0.02)


def test_uniformity_is_pearsons_chi_square():
    n = np.random.default_rng(2).integers(0, 40, 50)
    found = module.uniformity(n)
    statistic = scipy.stats.chisquare(n).statistic
    N, V = n.sum(), len(n)
    assert 2 * V / N * found.seen + V - N == pytest.approx(statistic)
    assert 2 * V / N * found.chance + V - N == pytest.approx(V - 1)  # chance is the statistic's own mean


@pytest.mark.parametrize(("V", "draws", "skew"), [(4, 200, 0), (64, 500, 1), (512, 2000, 0)])
def test_order_by_chance_is_the_mean_over_shuffles_and_z_is_standard(V, draws, skew):
    rng = np.random.default_rng(V)
    weights = 1 / np.arange(1, V + 1) ** skew
    before, after = rng.choice(V, (2, draws), p=weights / weights.sum())
    found = [module.order(pairs(before, rng.permutation(after), V)) for _ in range(400)]
    assert {round(one.chance, 6) for one in found} == {round(found[0].chance, 6)}  # a function of the margins
    z = np.asarray([one.z for one in found])
    assert abs(z.mean()) < 4 * z.std() / math.sqrt(len(z)) and 0.8 < z.std() < 1.25


def test_agreements_say_what_they_cannot_see():
    one = module.Agreement(35, 25, 25)
    assert one.z == 2 and one.nats == pytest.approx(math.log(1.4)) and module.Agreement(0, 3, 3).nats == -math.inf
    assert module.Agreement(3, 400, 400).blind == pytest.approx(math.log(1.2))
    nothing = module.Agreement(0, 0, 0)
    assert math.isnan(nothing.nats) and math.isnan(nothing.z) and nothing.blind == math.inf


def test_counts_are_of_codes_only():
    np.testing.assert_array_equal(module.counts(np.array([[0, 1], [0, 2]]), 3), [[2, 0, 0], [0, 1, 1]])
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="not codes"):
            module.counts(np.array([[wrong]]), 4)

"""What seeds and clips allow to be said: against scipy, and against simulations whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from partimento.lab.compared import statistics as st


def test_the_p_of_an_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    for n in (2, 3, 8):
        one, two = rng.normal(0, 1, n), rng.normal(0.8, 1, n)
        mean, half = st.mean_and_half((two - one).tolist())
        theirs = stats.ttest_rel(two, one)
        assert st.p_of_interval(mean, half, n - 1) == pytest.approx(theirs.pvalue, rel=1e-9)
        low, high = theirs.confidence_interval()
        assert (mean - half, mean + half) == pytest.approx((low, high))
        assert (st.p_of_interval(mean, half, n - 1) < 0.05) == (low > 0 or high < 0)


def test_signed_ranks_are_scipys_and_need_six():
    values = [0.3, 1.2, -0.4, 2.0, 0.9, 1.1, 0.0]
    assert st.signed_ranks(values) == pytest.approx(stats.wilcoxon(values[:-1]).pvalue)
    assert st.signed_ranks(values[:5]) is None


def test_satterthwaite_gives_welchs_test():
    rng = np.random.default_rng(1)
    one, two = rng.normal(0, 1, 4), rng.normal(1, 3, 7)
    parts = [(side.var(ddof=1) / len(side), len(side) - 1) for side in (one, two)]
    theirs = stats.ttest_ind(two, one, equal_var=False)
    assert st.satterthwaite(parts) == pytest.approx(theirs.df)
    half = st.half_width(math.sqrt(sum(part for part, _ in parts)), theirs.df)
    assert st.p_of_interval(two.mean() - one.mean(), half, theirs.df) == pytest.approx(theirs.pvalue)


def test_holm_by_hand():
    assert st.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm([0.6, 0.001]) == pytest.approx([0.6, 0.002])
    assert st.holm([]) == []


def test_holm_keeps_the_rate_of_false_findings():
    rng = np.random.default_rng(2)
    values = stats.ttest_1samp(rng.normal(0, 1, (1500, 5, 8)), 0, axis=-1).pvalue
    wrong = np.mean([min(st.holm(row.tolist())) < 0.05 for row in values])
    assert 0.03 < wrong < 0.068
    assert np.mean(values.min(1) < 0.05) > 0.18  # without it


@pytest.mark.parametrize(("n", "effect"), [(3, 1.0), (5, 1.2), (12, 0.5)])
def test_power_is_that_of_the_paired_t_test(n, effect):
    assert st.power(effect, st.Spread(1.0), n) == pytest.approx(_simulated(n, effect), abs=0.02)
    degrees, bound = n - 1, stats.t.isf(0.025, n - 1)
    shift = effect * math.sqrt(n)
    exact = stats.nct.sf(bound, degrees, shift) + stats.nct.cdf(-bound, degrees, shift)
    assert st.power(effect, st.Spread(1.0), n) == pytest.approx(exact, abs=2e-3)


def _simulated(n, effect):
    values = np.random.default_rng(n).normal(effect, 1, (8000, n))
    return np.mean(stats.ttest_1samp(values, 0, axis=-1).pvalue < 0.05)


def test_the_number_of_seeds_is_the_first_that_is_enough():
    for effect in (0.4, 0.9, 2.5):
        spread = st.Spread(1.0)
        n = st.seeds_needed(effect, spread)
        assert st.power(effect, spread, n) >= 0.8 > (st.power(effect, spread, n - 1) if n > 2 else 0)
    assert st.seeds_needed(0.9, st.Spread(1.0)) == 12  # tables of Cohen (1988): n = 12 for d = 0.9
    assert st.seeds_needed(0.001, st.Spread(1.0)) is None
    assert st.seeds_needed(0.9, st.Spread(1.0), level=0.01) > 12


def test_clips_that_differ_too_much_cannot_be_outweighed_by_seeds():
    few = st.Spread(0.01, clips=1.0, sources=10)
    assert st.seeds_needed(1.0, few) is None and st.clips_forbid(1.0, few)
    assert not st.clips_forbid(5.0, few) and st.seeds_needed(5.0, few) == 2
    assert not st.clips_forbid(0.001, st.Spread(1.0))  # there it is the seeds


def test_an_effect_size_and_its_interval_cover_the_truth():
    rng = np.random.default_rng(3)
    found = [st.effect_size(rng.normal(0.7, 1, 10).tolist()) for _ in range(150)]
    assert 0.90 <= np.mean([one.low <= 0.7 <= one.high for one in found]) <= 0.99
    values = [1.0, 2.0, 4.0]
    assert st.effect_size(values).d == pytest.approx(np.mean(values) / np.std(values, ddof=1))
    assert st.effect_size([1.0, 2.0]) is None and st.effect_size([1.0, 1.0, 1.0]) is None


def test_an_interval_of_any_effect_is_known_and_turns_with_its_sign():
    base = np.linspace(-1, 1, 12) / np.linspace(-1, 1, 12).std(ddof=1)
    for n in (3, 12):
        spread = base[:n] / base[:n].std(ddof=1) - np.mean(base[:n] / base[:n].std(ddof=1))
        for size in (0.0, 0.5, 2.0, 4.0, 10.0, 100.0):
            one, other = st.effect_size((spread + size).tolist()), st.effect_size((-spread - size).tolist())
            assert one.low < one.d < one.high and one.d == pytest.approx(size, abs=1e-9)
            assert (other.low, other.high) == pytest.approx((-one.high, -one.low))


def test_the_ends_of_an_effect_size_are_those_of_scipys_noncentral_t():
    for n, size in ((5, 0.4), (12, 1.5), (30, 0.0)):
        spread = np.linspace(-1, 1, n) / np.linspace(-1, 1, n).std(ddof=1)
        one = st.effect_size((spread + size).tolist())
        seen = one.d * math.sqrt(n)
        ends = [float(stats.nct.cdf(seen, n - 1, end * math.sqrt(n))) for end in (one.low, one.high)]
        assert ends == pytest.approx([0.975, 0.025], abs=2e-3)

"""Bootstrap intervals: they cover, clips are no sources, seeds count, and nothing is random."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from partimento.lab.restored.intervals import difference_over_seeds, paired_bootstrap


def each(values):
    return {f"s{number:03d}": [float(value)] for number, value in enumerate(values)}


def test_an_interval_is_a_function_of_its_arguments():
    given = each(np.random.default_rng(0).normal(1, 1, 9))
    first = paired_bootstrap(given, 500, seed=3)
    assert paired_bootstrap(dict(reversed(given.items())), 500, seed=3) == first
    assert paired_bootstrap(given, 500, seed=4) != first
    assert first.low < first.mean < first.high and first.n == 9
    assert first.mean == pytest.approx(np.mean([value for (value,) in given.values()]))


@pytest.mark.parametrize(("n", "least"), [(3, 0.91), (5, 0.91), (8, 0.90), (20, 0.91)])
def test_about_95_of_100_intervals_hold_the_truth(n, least):
    rng = np.random.default_rng(n)
    found = [paired_bootstrap(each(rng.normal(0.3, 2, n)), 400, seed) for seed in range(200)]
    assert least <= np.mean([one.low <= 0.3 <= one.high for one in found]) <= 0.995


def test_of_many_sources_it_is_the_interval_of_students_t():
    values = np.random.default_rng(1).normal(2, 3, 60)
    found = paired_bootstrap(each(values), 20000)
    half = student.ppf(0.975, 59) * values.std(ddof=1) / math.sqrt(60)
    assert found.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_of_few_sources_the_spread_is_not_taken_for_smaller():
    """Of four it is Student's, exactly; of eight, were eight drawn at a time, it would be 6 % narrower."""
    for values, tolerance in (
        (np.array([1.0, 2.0, 4.0, 8.0]), 1e-9),
        (np.array([-2, -1, -0.5, -0.2, 0.2, 0.5, 1, 2]), 0.02),
    ):
        found = paired_bootstrap(each(values), 20000)
        half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=tolerance)


def test_clips_are_no_sources():
    values = np.random.default_rng(2).normal(0, 1, 6)
    once, often = each(values), {name: value * 100 for name, value in each(values).items()}
    assert paired_bootstrap(often).to_json() == pytest.approx(paired_bootstrap(once).to_json())
    # A source of many clips weighs as much as one of few.
    assert paired_bootstrap({"a": [1.0] * 99, "b": [0.0]}).mean == pytest.approx(0.5)


def test_excluding_zero():
    assert paired_bootstrap(each([-1.0, -1.2, -0.9, -1.1, -1.3])).excludes_zero
    assert not paired_bootstrap(each([-1.0, 1.2, -0.9, 1.1, 0.1])).excludes_zero
    alone = paired_bootstrap(each([-1.0]))
    assert (alone.low, alone.high, alone.n) == (None, None, 1) and not alone.excludes_zero


@pytest.mark.parametrize("given", [{}, {"a": []}, {"a": [1.0], "b": [math.nan]}, {"a": [math.inf]}])
def test_there_is_no_interval_of_nothing(given):
    with pytest.raises(ValueError):
        paired_bootstrap(given)
    with pytest.raises(ValueError):
        difference_over_seeds({"0": given}, {"0": {"a": [1.0], "b": [1.0]}})


def runs(rng, seeds, sources, shift=0.0, of_seed=0.0, of_source=0.0, base=None):
    """{seed: {source: values}}: a level of each source, an effect of each seed, an effect of each source."""
    base = np.zeros(sources) if base is None else base
    own = rng.normal(0, of_source, sources)
    return {str(seed): each(base + own + shift + rng.normal(0, of_seed)) for seed in range(seeds)}


def test_an_effect_that_seeds_share_is_found_and_one_of_a_lucky_seed_is_not():
    rng = np.random.default_rng(3)
    base = rng.normal(0, 5, 12)  # sources differ far more than conditions do; pairing takes that away
    clear = difference_over_seeds(runs(rng, 3, 12, base=base), runs(rng, 3, 12, 1.0, 0.1, 0.1, base))
    assert clear.excludes_zero and 0.7 < clear.mean < 1.3 and (clear.n, clear.seeds) == (12, 3)
    lucky = {"0": each(base + 3), "1": each(base), "2": each(base - 0.1)}
    unsure = difference_over_seeds({seed: each(base) for seed in "012"}, lucky)
    assert not unsure.excludes_zero
    # The same values over sources alone would have been certain.
    assert paired_bootstrap(each(np.full(12, unsure.mean))).excludes_zero


@pytest.mark.parametrize(("of_seed", "of_source"), [(1.0, 0.2), (0.2, 1.0), (0.5, 0.5)])
def test_intervals_over_seeds_and_sources_hold_the_truth(of_seed, of_source):
    rng = np.random.default_rng(4)
    hits = []
    for seed in range(60):
        base = rng.normal(0, 3, 10)
        first, second = (runs(rng, 4, 10, shift, of_seed, of_source / math.sqrt(2), base) for shift in (0, 0.5))
        found = difference_over_seeds(first, second, 150, seed)
        hits.append(found.low <= 0.5 <= found.high)
    assert np.mean(hits) >= 0.85


def test_runs_of_one_seed_are_a_pair():
    rng = np.random.default_rng(5)
    luck = rng.normal(0, 5, 4)  # of each seed, in both conditions
    first = {str(seed): each(np.full(6, luck[seed]) + rng.normal(0, 0.01, 6)) for seed in range(4)}
    second = {str(seed): each(np.full(6, luck[seed] + 1) + rng.normal(0, 0.01, 6)) for seed in range(4)}
    paired = difference_over_seeds(first, second)
    strangers = difference_over_seeds(first, {f"other {seed}": run for seed, run in second.items()})
    assert paired.excludes_zero and not strangers.excludes_zero
    assert paired.mean == pytest.approx(strangers.mean)


def test_only_sources_that_every_run_has_are_used():
    first = {"0": each([1.0, 2.0, 3.0]), "1": each([1.0, 2.0])}
    second = {"0": each([2.0, 3.0, 99.0]), "1": each([2.0, 3.0, 99.0])}
    found = difference_over_seeds(first, second)
    assert found.n == 2 and found.mean == pytest.approx(1.0)
    with pytest.raises(ValueError):
        difference_over_seeds({"0": {"a": [1.0]}}, {"0": {"b": [1.0]}})

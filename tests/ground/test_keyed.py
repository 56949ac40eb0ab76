from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento import keyed


def test_keys_depend_on_every_part_type_and_order() -> None:
    keys = [keyed.key(1, 2), keyed.key(2, 1), keyed.key("1", 2), keyed.key(1), keyed.key(12), keyed.key(1, 2, 0)]
    assert len(set(keys)) == len(keys)


def test_keys_never_change() -> None:
    # golden values: a run made by an older version must go on with the same windows
    assert keyed.key(0, "draw", 7) == 170114216443328934
    assert keyed.permute(3, 1000, "golden") == 953


def test_uniform_is_uniform() -> None:
    values = np.array([keyed.uniform("u", i) for i in range(20_000)])
    assert values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    # chi-squared with 19 degrees of freedom exceeds 43.8 once in a thousand
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 5))
def test_permute_is_a_permutation(n: int, seed: int) -> None:
    assert sorted(keyed.permute(i, n, seed) for i in range(n)) == list(range(n))


def test_permute_shuffles() -> None:
    n = 4096
    image = np.array([keyed.permute(i, n, "shuffle") for i in range(n)])
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 0.05
    assert (image == np.arange(n)).sum() < 10
    other = np.array([keyed.permute(i, n, "other") for i in range(n)])
    assert (image == other).sum() < 10


def test_generators_repeat() -> None:
    assert keyed.numpy_rng(3, "a").integers(1 << 30) == keyed.numpy_rng(3, "a").integers(1 << 30)
    assert keyed.torch_generator(3, "a").initial_seed() == keyed.torch_generator(3, "a").initial_seed()


def slow_bits(index: int, *parts: int | str) -> int:
    """splitmix64's published form, one value at a time on Python's integers."""
    full = 2**64 - 1
    z = (keyed.key(*parts) + 0x9E3779B97F4A7C15 * (index + 1)) & full
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & full
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & full
    return z ^ (z >> 31)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**62), max_size=20), st.integers(1, 2**40), st.integers(-3, 3))
def test_many_at_once_are_the_values_one_by_one(indices: list[int], n: int, seed: int) -> None:
    given_ = np.array(indices, dtype=np.int64)
    slow = [slow_bits(index, "purpose", seed) for index in indices]
    assert keyed.bits_many(given_, "purpose", seed).tolist() == slow
    assert keyed.uniform_many(given_, "purpose", seed).tolist() == [(bits >> 11) / 2**53 for bits in slow]
    assert keyed.below_many(n, given_, "purpose", seed).tolist() == [bits % n for bits in slow]
    limits = [1 + bits % 1000 for bits in slow]
    assert keyed.below_many(limits, given_, "purpose", seed).tolist() == [
        bits % limit for bits, limit in zip(slow, limits, strict=True)
    ]


def test_splitmix_has_its_published_values() -> None:
    # Of the reference implementation (S. Vigna, splitmix64.c) from state 1234567, which here stands for the key.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    state = np.uint64(1234567) + keyed._GOLDEN * np.arange(1, 5, dtype=np.uint64)
    assert keyed._mix_many(state, 0).tolist() == published


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(0, 5), st.data())
def test_permute_many_is_permute_of_each(n: int, seed: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, n - 1), max_size=60))
    assert keyed.permute_many(indices, n, seed).tolist() == [keyed.permute(i, n, seed) for i in indices]


def test_permute_many_of_everything_and_of_large_ranges() -> None:
    for n in (1, 2, 3, 255, 256, 257, 4095, 4097):
        image = keyed.permute_many(np.arange(n), n, "all")
        assert sorted(image.tolist()) == list(range(n))
    n = 600_000_000
    indices = np.arange(n - 2000, n)
    image = keyed.permute_many(indices, n, "large")
    assert image.tolist() == [keyed.permute(int(i), n, "large") for i in indices]
    assert len(np.unique(image)) == len(image) and 0 <= image.min() <= image.max() < n
    assert keyed.permute_many(np.zeros((2, 3), dtype=np.int64), 7, "shape").shape == (2, 3)
    for bad in ([5], [-1, 2]):
        try:
            keyed.permute_many(bad, 5, "range")
        except ValueError:
            continue
        raise AssertionError("an index outside of the range was permuted")


def chi_squared(counts: np.ndarray) -> float:
    """In units of its standard deviation, from its mean; above 5 once in millions of tests."""
    expected = counts.sum() / counts.size
    degrees = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def test_many_are_uniform_in_every_part() -> None:
    values = keyed.uniform_many(np.arange(1 << 20), "u", 0)
    assert values.min() >= 0 and values.max() < 1
    assert abs(chi_squared(np.histogram(values, bins=1000, range=(0, 1))[0])) < 5
    bits = keyed.bits_many(np.arange(1 << 18), "u", 0)
    for shift in (0, 8, 16, 24, 32, 40, 48, 56):  # each byte: `below` takes low bits, `uniform` high ones
        low = ((bits >> np.uint64(shift)) & np.uint64(255)).astype(np.int64)
        assert abs(chi_squared(np.bincount(low, minlength=256))) < 5
    for n in (3, 7, 100, 1000):
        assert abs(chi_squared(np.bincount(keyed.below_many(n, np.arange(1 << 18), "b"), minlength=n))) < 5


def test_neighbours_are_independent() -> None:
    """Neighbouring numbers, seeds, epochs and purposes, and numbers at strides that batches and ranks use."""
    size = 1 << 18
    index = np.arange(size)
    base = keyed.uniform_many(index, "start", 0, "train", 0)
    others = {
        "seed": keyed.uniform_many(index, "start", 1, "train", 0),
        "split": keyed.uniform_many(index, "start", 0, "valid", 0),
        "attempt": keyed.uniform_many(index, "start", 0, "train", 1),
        "purpose": keyed.uniform_many(index, "null", 0, "train", 0),
    }
    for stride in (1, 2, 7, 64, 1024, 65536):
        others[f"number + {stride}"] = keyed.uniform_many(index + stride, "start", 0, "train", 0)
    for name, other in others.items():
        # A correlation of independent values has a standard deviation of 1 / sqrt(size).
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(size), name
        pairs = np.histogram2d(base, other, bins=32, range=((0, 1), (0, 1)))[0]
        assert abs(chi_squared(pairs)) < 5, name
    triples = np.histogramdd(
        np.stack([base[:-2], base[1:-1], base[2:]], axis=1), bins=12, range=((0, 1), (0, 1), (0, 1))
    )[0]
    assert abs(chi_squared(triples)) < 5


def test_single_bits_of_index_and_key_change_half_of_the_bits() -> None:
    index = np.arange(4096, dtype=np.uint64)
    base = keyed.bits_many(index, "avalanche")
    for bit in range(40):
        changed = keyed.bits_many(index ^ np.uint64(1 << bit), "avalanche")
        flipped = np.bitwise_count(base ^ changed)
        assert abs(flipped.mean() - 32) < 5 * 4 / np.sqrt(len(index))


def test_below_many_needs_something_to_choose_from() -> None:
    for n in (0, [3, 0]):
        try:
            keyed.below_many(n, [1, 2])
        except ValueError:
            continue
        raise AssertionError("a number below 0 was drawn")

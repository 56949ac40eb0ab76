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

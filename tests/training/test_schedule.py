"""The rate as a function of the step: its ends, its bounds, its clamps. Against torch's schedulers: tests/parity."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.config import Optim
from partimento.errors import PartimentoError
from partimento.training.schedule import shape

SCHEDULES = ("cosine", "linear", "exponential", "wsd", "constant")


@settings(deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 400),
    warmup=st.integers(0, 500),
    min_lr=st.floats(1e-3, 1),
    decay_share=st.floats(0.01, 1),
)
def test_it_rises_in_the_warm_up_falls_after_it_and_stays_at_its_end(steps: int, warmup: int, **how: Any) -> None:
    optim = Optim(warmup=warmup, **how)
    rates = [shape(step, optim, steps) for step in range(steps + 20)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    after = rates[warmup:]
    assert after == sorted(after, reverse=True)
    assert set(rates[steps:]) == {rates[steps - 1]}
    if steps > warmup + 1 and optim.schedule not in ("linear", "constant"):
        assert rates[-1] == pytest.approx(optim.min_lr)
    if 0 < warmup <= steps:
        assert rates[warmup - 1] == 1


def test_the_cosine_is_one() -> None:
    optim = Optim(warmup=10, min_lr=0.1)
    rates = [shape(step, optim, 100) for step in range(130)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1
    assert rates[50] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 40 / 89)))
    assert rates[99] == rates[129] == pytest.approx(0.1)


def test_linear_would_be_zero_one_step_after_the_last() -> None:
    rates = [shape(step, Optim(schedule="linear", warmup=5), 25) for step in range(30)]
    assert rates[5] == 1 and rates[15] == pytest.approx(0.5) and rates[24] == rates[29] == pytest.approx(1 / 20)


def test_the_stable_phase_ends_where_the_decay_share_begins() -> None:
    rates = [shape(step, Optim(schedule="wsd", warmup=10, decay_share=0.2, min_lr=0.0), 100) for step in range(100)]
    assert rates[9:80] == [1.0] * 71 and rates[80] == pytest.approx(0.95) and rates[99] == 0


def test_exponential_falls_by_one_factor() -> None:
    rates = [shape(step, Optim(schedule="exponential", warmup=0, min_lr=0.01), 50) for step in range(50)]
    assert {round(b / a, 12) for a, b in itertools.pairwise(rates)} == {round(0.01 ** (1 / 49), 12)}
    with pytest.raises(PartimentoError, match="TRAIN013"):
        shape(0, Optim(schedule="exponential", min_lr=0.0), 50)

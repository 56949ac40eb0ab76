"""Alarms on curves: healthy ones give none, planted divergence is named within few readings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partimento.config import Guard
from partimento.keyed import numpy_rng
from partimento.training.halting import READS, REMEMBERED, diverged, exhausted, healthy, last_skip, remember, stop_early

STEPS = np.arange(600)


def first_alarm(curve: np.ndarray | list[float | None]) -> int | None:
    """Index of the reading at which `diverged` first says so, kept as the engine keeps it."""
    losses: list[float | None] = []
    for place, loss in enumerate(curve):
        losses = remember(losses, loss)
        if diverged(losses):
            return place
    return None


def learning(seed: int, *, start: float = 6.93, end: float = 4.2, pace: float = 60, noise: float = 0.05) -> np.ndarray:
    rng = numpy_rng("curve", seed)
    return end + (start - end) * np.exp(-STEPS / pace) + noise * rng.standard_normal(len(STEPS))


HEALTHY = {
    "falls": learning(0),
    "falls, noisy": learning(1, noise=0.3),
    "barely falls": learning(2, end=6.7, noise=0.05),
    "barely falls, very noisy": learning(13, end=6.7, noise=0.5),
    "never learns": learning(3, end=6.93, noise=0.02),
    "plateau without noise": np.full(600, 4.0),
    "flat zero": np.zeros(600),
    "by heart": 6.93 * np.exp(-STEPS / 15) * np.exp(0.8 * numpy_rng("heart").standard_normal(600)),
    "by heart but for some": 6.93 * np.exp(-STEPS / 15) + np.where(STEPS % 50 >= 40, 0.3, 0.01),
    "two percent more": np.where(STEPS < 300, 4.0, 4.08),
    "another unit": 3000 * learning(4),
    "negative": learning(5) - 10,
    "from far": learning(6, start=100, end=1, noise=0.05),
    "the curriculum": np.where(STEPS < 300, learning(7), 1.15 * learning(7)),
    "the curriculum, down": np.where(STEPS < 300, learning(8), 0.7 * learning(8)),
    "single spikes": np.where(STEPS % 40 == 39, 9.0, learning(9)),
    "four in a row": np.where(STEPS % 100 >= 96, 9.0, learning(10)),
    "warm-up bump": learning(11) + 0.8 * np.exp(-(((STEPS - 4) / 3) ** 2)),
    "slow oscillation": learning(12) + 0.4 * np.sin(STEPS / 20),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_curve_gives_no_alarm(name: str) -> None:
    assert first_alarm(HEALTHY[name]) is None


def broken(kind: str, at: int, seed: int) -> np.ndarray:
    curve, after = learning(seed, noise=0.08), np.maximum(0, STEPS - at)
    match kind:
        case "explodes":
            return np.where(after > 0, curve * np.exp(0.2 * after), curve)
        case "jumps and stays":
            return np.where(after > 0, 7.5 + 0.3 * numpy_rng("jump", seed).standard_normal(len(STEPS)), curve)
        case "forgets all":
            return curve + (7.0 - curve) * (1 - np.exp(-after / 4))
        case "not finite":
            return np.where(after > 0, np.nan, curve)
        case "finite by turns":
            return np.where(after > 0, np.where(after % 2, np.inf, 8.0), curve)
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["explodes", "jumps and stays", "forgets all", "not finite", "finite by turns"])
@pytest.mark.parametrize("at", [20, 100, 400])
def test_divergence_is_named_within_few_readings(kind: str, at: int) -> None:
    for seed in range(3):
        alarm = first_alarm(broken(kind, at, seed))
        assert alarm is not None and at + READS <= alarm <= at + 3 * READS


def test_a_rate_that_is_too_high_from_the_start_is_named() -> None:
    assert first_alarm([6.93, 8.0, 15.0, 30.0, 28.0, 31.0, 30.0, 29.0]) == 6
    assert first_alarm([6.93] + [math.nan] * 10) == READS
    assert first_alarm([math.nan] * 10) == READS - 1
    assert first_alarm([None] * 4 + [5.0] * 30) is None


def test_a_slow_divergence_over_more_than_what_is_remembered_is_named() -> None:
    curve = np.concatenate([learning(0, noise=0.05)[:300], np.linspace(4.2, 7.5, 200)])
    alarm = first_alarm(curve)
    assert alarm is not None and 4.2 < curve[alarm] < 6.2


def test_the_reason_can_be_read() -> None:
    reason = diverged([7.0, 6.0, 5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 9.0, None, 9.5, 9.0, 9.25])
    assert reason is not None and "9, not finite, 9.5, 9, 9.25" in reason and "level of 4 " in reason


def test_a_checkpoint_is_good_while_the_loss_is_on_its_level() -> None:
    assert healthy([]) and healthy([6.9]) and healthy([6.9, 7.0]) and healthy([6.9] * 5 + [4.0] * 8 + [4.3])
    assert not healthy([None]) and not healthy([6.9, math.nan]) and not healthy([6.9, 30.0])
    assert not healthy([6.9] * 5 + [4.0] * 8 + [6.5]), "one reading is enough to doubt, five are needed to act"
    for name in ("falls", "plateau without noise", "the curriculum", "from far"):
        assert all(healthy(list(HEALTHY[name][:n])) for n in range(0, 600, 7))


def test_what_is_remembered_begins_with_the_first_reading() -> None:
    losses: list[float | None] = []
    for n in range(3 * REMEMBERED):
        losses = remember(losses, float(n) if n % 7 else math.nan)
    assert len(losses) == REMEMBERED and losses[0] == 1.0  # reading 0 was not finite
    assert losses[1:] == [float(n) if n % 7 else None for n in range(2 * REMEMBERED + 1, 3 * REMEMBERED)]
    assert remember([], 2.0) == [2.0] and remember([2.0], None) == [2.0, None]


@pytest.mark.parametrize(
    "in_a_row, recent, said",
    [(0, 0, None), (9, 39, None), (10, 10, "last 10 steps"), (25, 25, "last 25 steps"), (0, 40, "40 of the last 128")],
)
def test_patience_in_a_row_or_four_times_within_the_window(in_a_row: int, recent: int, said: str | None) -> None:
    figures = {"skipped_in_a_row": in_a_row, "skipped_in_window": recent, **LAST}
    reason = exhausted(figures, Guard(patience=10, window=128))
    assert reason is None if said is None else reason is not None and said in reason


LAST = {"skip_loss": 4.0, "skip_norm": 812.0, "skip_loss_limit": 5.25, "skip_norm_limit": 3.5}


def test_the_last_skip_can_be_read() -> None:
    assert last_skip(LAST) == "the last of them had loss 4 (limit 5.25) and gradient norm 812 (limit 3.5)"
    early = LAST | {"skip_loss": math.nan, "skip_loss_limit": math.inf, "skip_norm_limit": math.inf}
    assert last_skip(early) == "the last of them had loss not finite and gradient norm 812"


def validations(scores: list[float | None], trained: list[float | None] | None = None) -> list[dict]:
    trained = trained or [5.0 - 0.1 * n for n in range(len(scores))]
    return [
        {"step": 100 * (n + 1), "score": score, "train_loss": loss}
        for n, (score, loss) in enumerate(zip(scores, trained, strict=True))
    ]


@pytest.mark.parametrize(
    "scores, stops",
    [
        ([5, 4, 3], False),
        ([5, 4, 4.5, 4.2], False),
        ([5, 4, 4.5, 4.2, 4.1], True),
        ([5, 4, 4.0, 4.0, 4.0], True),  # equal is not better
        ([5, 4, 4.5, 4.2, 3.9], False),
        ([5, 4, None, math.nan, None], True),
        ([None, None], False),
        ([None, None, None], True),
        ([], False),
    ],
)
def test_no_better_score_for_so_many_validations(scores: list[float | None], stops: bool) -> None:
    reason = stop_early(validations(scores), Guard(stop_after=3))
    assert (reason is not None) == stops
    assert stop_early(validations(scores), Guard()) is None
    if stops and 5 in scores:
        assert reason is not None and "step 200 (4)" in reason


def test_overfitting_is_a_worse_score_with_a_lower_loss_in_a_row() -> None:
    guard = Guard(stop_overfit=3)
    reason = stop_early(validations([5, 4, 4.1, 4.2, 4.3]), guard)
    assert reason is not None and "overfitting: 3" in reason and "(4 to 4.3, 4.9 to 4.6)" in reason
    assert stop_early(validations([5, 4, 4.1, 4.2]), guard) is None, "two in a row"
    assert stop_early(validations([5, 4, 4.1, 4.0, 4.3, 4.4]), guard) is None, "interrupted"
    assert stop_early(validations([4, 4.1, 4.2, 4.3], [5, 5.1, 5.2, 5.3]), guard) is None, "both worse: no overfitting"
    assert stop_early(validations([4, 4.1, None, 4.3, 4.4]), guard) is None, "unknown is no evidence"
    assert stop_early(validations([4, 4.1, 4.2, 4.3], [5, None, 4, 3]), guard) is None
    noisy = 4 + 0.05 * numpy_rng("noisy").standard_normal(200)
    assert not any(stop_early(validations(list(noisy[:n])), Guard(stop_overfit=6)) for n in range(200))

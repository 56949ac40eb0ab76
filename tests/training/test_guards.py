"""The guard against a slow reference, with planted faults, and through every kind of tracing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from partimento.config import Guard as GuardConfig
from partimento.errors import PartimentoError
from partimento.keyed import numpy_rng
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.loss import code_loss
from partimento.training.guards import LOSS_FLOOR, NORM_FLOOR, NORM_REST, Guard

CPU = torch.device("cpu")


def guard(window: int = 16, sigma: float | None = 6.0) -> Guard:
    return Guard(GuardConfig(window=window, sigma=sigma), CPU)


def judge(guard: Guard, loss: float, norm: float) -> bool:
    return bool(guard.judge(torch.tensor(loss), torch.tensor(norm)))


def figures(guard: Guard) -> dict[str, float]:
    return dict(zip(Guard.FIGURES, guard.figures().tolist(), strict=True))


def bits(guard: Guard) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in guard.state().items()}


def healthy(steps: int, seed: int, *, spread: float = 0.3) -> np.ndarray:
    """[steps, 2]: a falling noisy loss, and norms that are skewed to the right as real ones are."""
    rng = numpy_rng("healthy", seed)
    loss = 3.5 + 3.4 * np.exp(-np.arange(steps) / 300) + 0.1 * rng.standard_normal(steps)
    return np.stack([loss, np.exp(spread * rng.standard_normal(steps))], axis=1)


class Reference:
    """The rule in float64 with lists, as one would write it down."""

    def __init__(self, window: int, sigma: float) -> None:
        self.window, self.sigma = window, sigma
        self.accepted: list[tuple[float, float]] = []
        self.skips: list[bool] = []

    def limits(self) -> tuple[float, float]:
        half = (self.window + 1) // 2
        if len(self.accepted) < half:
            return math.inf, math.inf
        start_loss, start_norm = np.median(np.array(self.accepted[:half], dtype=np.float64), axis=0)
        loss, norm = np.array(self.accepted[-self.window :], dtype=np.float64).T
        loss_limit = self._limit(loss, LOSS_FLOOR * abs(start_loss))
        return loss_limit, math.exp(self._limit(np.log(norm + NORM_REST * start_norm), NORM_FLOOR)) - (
            NORM_REST * start_norm
        )

    def _limit(self, values: np.ndarray, floor: float) -> float:
        median = np.median(values)
        return float(median + self.sigma * max(1.4826 * np.median(np.abs(values - median)), floor))

    def check(self, fast: Guard, loss: float, norm: float) -> None:
        """One step of both; the guard is float32, so within 1e-4 of a limit either decision is right."""
        limits = self.limits()
        bad = judge(fast, loss, norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            assert bad
        elif all(abs(value / limit - 1) > 1e-4 for value, limit in zip((loss, norm), limits, strict=True)):
            assert bad == (loss > limits[0] or norm > limits[1])
        self.skips.append(bad)
        if not bad:
            self.accepted.append((loss, norm))
        found = figures(fast)
        if bad:
            assert found["skip_loss_limit"] == pytest.approx(limits[0], rel=1e-5)
            assert found["skip_norm_limit"] == pytest.approx(limits[1], rel=1e-4)
        assert found["skipped"] == sum(self.skips)
        assert found["skipped_in_window"] == sum(self.skips[-self.window :])
        row = next((n for n, skip in enumerate(reversed(self.skips)) if not skip), len(self.skips))
        assert found["skipped_in_a_row"] == row
        last = self.accepted[-self.window :]
        kept_RW = fast.state()["seen"][:, : len(last)]
        assert sorted(kept_RW[0].tolist()) == sorted(float(np.float32(loss)) for loss, _ in last)
        assert sorted(kept_RW[1].tolist()) == sorted(float(np.float32(norm)) for _, norm in last)


NOT_FINITE = (math.nan, math.inf, -math.inf)
VALUES = st.one_of(st.floats(0.5, 8.0), st.sampled_from(NOT_FINITE), st.floats(8.0, 1e6))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=90),
    st.integers(16, 21),
    st.sampled_from([1.0, 3.0, 6.0]),
)
def test_every_decision_is_that_of_the_slow_rule(steps: list[tuple[float, float]], window: int, sigma: float) -> None:
    fast, slow = guard(window, sigma), Reference(window, sigma)
    for loss, norm in steps:
        slow.check(fast, loss, norm)


@pytest.mark.parametrize("window", [16, 17, 32])
def test_every_decision_over_a_long_run_with_planted_spikes(window: int) -> None:
    rng = numpy_rng("planted", window)
    fast, slow = guard(window), Reference(window, 6.0)
    for loss, norm in healthy(500, window):
        place, kind = rng.integers(0, 2), rng.integers(0, 12)
        values = [loss, norm]
        if kind == 0:
            values[place] = rng.choice(NOT_FINITE)
        elif kind <= 2:
            values[place] *= rng.choice([1.3, 2, 5, 30, 1000])
        slow.check(fast, *values)
    assert 50 < sum(slow.skips) < 150


@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf), (9e9, 1.0)])
def test_what_is_skipped_leaves_no_trace_in_the_window(loss: float, norm: float) -> None:
    clean, spoiled = guard(), guard()
    for step, (a, b) in enumerate(healthy(60, 1)):
        assert not judge(clean, a, b) and not judge(spoiled, a, b)
        if step > 8:
            assert judge(spoiled, loss, norm)
    for name in ("seen", "accepted"):
        assert bits(clean)[name] == bits(spoiled)[name]
    found = figures(spoiled)
    assert (found["skipped"], found["skipped_in_a_row"], found["skipped_in_window"]) == (51, 1, 8)
    assert found["skipped_not_finite"] == (0 if math.isfinite(loss) and math.isfinite(norm) else 51)
    assert figures(clean)["skipped"] == 0 and math.isnan(figures(clean)["skip_loss"])


def test_the_last_skip_says_what_it_was_and_what_it_was_held_against() -> None:
    watch = guard()
    for a, b in healthy(40, 2):
        judge(watch, a, b)
    assert judge(watch, 55.0, 2.0)
    judge(watch, 6.5, 1.0)
    found = figures(watch)
    assert (found["skip_loss"], found["skip_norm"]) == (55.0, pytest.approx(2.0))
    assert 6.9 < found["skip_loss_limit"] < 20 and 3 < found["skip_norm_limit"] < 30


def test_outliers_are_judged_when_half_of_the_window_is_filled() -> None:
    for seen in (7, 8):
        watch = guard(window=16)
        for _ in range(seen):
            judge(watch, 4.0, 1.0)
        assert judge(watch, 400.0, 1.0) == (seen == 8)
    watch = guard(sigma=None)
    assert not any(judge(watch, 4.0, 1.0) for _ in range(20))
    assert not judge(watch, 4e9, 4e9) and judge(watch, math.nan, 1.0)


def test_a_quiet_window_does_not_make_every_breath_an_outlier() -> None:
    watch = guard()
    for _ in range(16):
        judge(watch, 4.0, 1.0)  # the median deviation is 0
    highest = 4.0 * (1 + 6 * LOSS_FLOOR), (1 + NORM_REST) * math.exp(6 * NORM_FLOOR) - NORM_REST
    assert not judge(watch, 0.999 * highest[0], 0.999 * highest[1])
    assert judge(watch, 1.001 * highest[0], 1.0)
    assert judge(watch, 4.0, 1.001 * highest[1])
    zero = guard()
    assert not any(judge(zero, 0.0, 0.0) for _ in range(40))


def test_what_is_learned_by_heart_may_jump_by_factors() -> None:
    """Loss and norm are next to nothing then; what they were in the beginning is what a jump is measured by."""
    watch = guard(window=32)
    for step in range(200):
        assert not judge(watch, 6.9 * 0.9**step, 0.9**step)
    resumed = guard(window=32)
    resumed.load({name: tensor.clone() for name, tensor in watch.state().items()})
    assert not judge(resumed, 0.5, 0.3)
    assert not judge(watch, 0.5, 0.3)
    assert judge(watch, 6.9, 0.1) and judge(watch, 0.1, 3.0)


@pytest.mark.parametrize("seed", range(4))
def test_healthy_figures_pass_and_planted_ones_do_not(seed: int) -> None:
    watch, skips = guard(window=128), 0
    for step, (loss, norm) in enumerate(healthy(1200, seed)):
        skips += judge(watch, loss, norm)
        if step > 100 and step % 50 == 0:
            assert judge(watch, loss, norm * 1000), "a gradient x1000"
            assert judge(watch, loss, 30.0), "thirty times the usual norm"
            assert judge(watch, 2 * loss, norm), "a spike of the loss"
    assert skips == 0


def test_a_stage_with_another_level_begins_with_an_empty_window() -> None:
    kept, emptied = guard(), guard()
    for watch in (kept, emptied):
        for loss, norm in healthy(64, 3):
            judge(watch, loss, norm)
        judge(watch, math.nan, 1.0)
    emptied.reset()
    assert figures(emptied)["skipped"] == 1
    assert figures(emptied)["skipped_in_a_row"] == figures(emptied)["skipped_in_window"] == 0
    higher = [(3 * loss, norm) for loss, norm in healthy(64, 4)]
    assert all(judge(kept, *values) for values in higher)
    assert not any(judge(emptied, *values) for values in higher)
    assert judge(emptied, 100.0, 1.0)


def test_after_a_rollback_recent_skips_are_forgiven_and_the_window_stays() -> None:
    watch = guard()
    for loss, norm in healthy(64, 3):
        judge(watch, loss, norm)
    judge(watch, math.nan, 1.0)
    watch.forgive()
    assert [figures(watch)[name] for name in Guard.FIGURES[:3]] == [1, 0, 0]
    assert judge(watch, 100.0, 1.0)
    assert [figures(watch)[name] for name in Guard.FIGURES[:3]] == [2, 1, 1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=70), st.data())
def test_a_resume_in_the_middle_is_bitwise_the_same(steps: list[tuple[float, float]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(steps)))
    whole, before, after = guard(), guard(), guard()
    expected = [judge(whole, *values) for values in steps]
    found = [judge(before, *values) for values in steps[:cut]]
    after.load({name: tensor.clone() for name, tensor in before.state().items()})
    found += [judge(after, *values) for values in steps[cut:]]
    assert found == expected and bits(after) == bits(whole)


@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape", "type"])
def test_a_state_that_does_not_fit_is_refused_whole(spoil: str) -> None:
    watch = guard()
    judge(watch, 1.0, 1.0)
    saved = {name: tensor.clone() + 1 for name, tensor in watch.state().items() if tensor.dtype != torch.bool}
    saved["skips"] = torch.ones(16, dtype=torch.bool)
    match spoil:
        case "missing":
            del saved["seen"]
        case "unknown":
            saved["mean"] = torch.zeros(())
        case "shape":
            saved["skips"] = saved["skips"][:8]
        case "type":
            saved["skipped"] = saved["skipped"].float()
    before = bits(watch)
    with pytest.raises(PartimentoError, match="TRAIN003"):
        watch.load(saved)
    assert bits(watch) == before


def test_the_decision_is_one_graph_without_a_read() -> None:
    """fullgraph fails at a branch on a value and at .item(); fake tensors have no values to read at all."""
    watch, plain = guard(), guard()
    compiled = torch.compile(watch.judge, fullgraph=True, backend="aot_eager")
    for step, (loss, norm) in enumerate(healthy(40, 5)):
        loss = math.nan if step == 20 else 50.0 if step == 30 else loss
        assert bool(compiled(torch.tensor(loss), torch.tensor(norm))) == judge(plain, loss, norm)
    assert bits(watch) == bits(plain) and figures(plain)["skipped"] == 2
    with FakeTensorMode():
        fake = guard()
        bad = fake.judge(torch.ones(()), torch.ones(()))
        assert bad.shape == () and bad.dtype == torch.bool
        fake.reset()
        fake.forgive()
        assert fake.figures().shape == (len(Guard.FIGURES),)
        with pytest.raises(DataDependentOutputException):
            bool(bad)


def test_a_loss_that_leaves_float32_is_not_finite() -> None:
    watch = guard()
    assert bool(watch.judge(torch.tensor(1e300, dtype=torch.float64), torch.tensor(1.0)))
    assert watch.judge(torch.tensor(4.0, dtype=torch.bfloat16), torch.tensor(1.0, dtype=torch.float64)).item() is False


# A real training: a small decoder on codes that follow each other by chance and by rule.

BOOKS, CODES = 3, 24


def windows(seed: int, step: int, batch: int, length: int) -> Tensor:
    """grid_BSK: each code follows the one before it in its book in three cases of four; loud and quiet stretches."""
    rng = numpy_rng("windows", seed, step)
    grid = np.empty((batch, length + 1, BOOKS), dtype=np.int64)
    grid[:, 0] = rng.integers(0, CODES, (batch, BOOKS))
    quiet = rng.random(batch) < 0.2
    for frame in range(1, length + 1):
        rule = (grid[:, frame - 1] * 5 + np.arange(BOOKS)) % CODES
        free = rng.integers(0, CODES, (batch, BOOKS))
        grid[:, frame] = np.where(rng.random((batch, BOOKS)) < 0.75, rule, free)
    grid[quiet] = 0
    return torch.from_numpy(grid)


def run(steps: int, *, rate: float, batch: int, dropout: float, plant: int | None = None) -> tuple[Guard, list[int]]:
    """Train under the guard; returns it and the steps that it skipped. From `plant` on, one gradient is x1000."""
    torch.manual_seed(7)
    config = DecoderConfig(
        codebooks=BOOKS, rows=CODES, outputs=CODES, width=32, layers=2, heads=2, max_positions=16, dropout=dropout
    )
    decoder = CodeDecoder(config).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=rate, betas=(0.9, 0.95), fused=True)
    watch, skipped = guard(window=128), []
    for step in range(steps):
        grid_BSK = windows(3, step, batch, 16)
        optimizer.zero_grad()
        found = code_loss(decoder(grid_BSK[:, :-1]), grid_BSK[:, 1:], CODES)
        (found.total / found.count).backward()
        if step == plant:
            for weight in decoder.parameters():
                weight.grad = None if weight.grad is None else 1000 * weight.grad
        norm = nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        if watch.judge(found.total.detach() / found.count, norm):
            skipped.append(step)
            continue
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50)
        optimizer.step()
    return watch, skipped


def test_a_gradient_times_1000_is_the_only_step_that_is_skipped() -> None:
    watch, skipped = run(300, rate=3e-3, batch=2, dropout=0.1, plant=250)
    assert skipped == [250]
    assert figures(watch)["skip_norm"] > 20 * figures(watch)["skip_norm_limit"]


@pytest.mark.slow
@pytest.mark.parametrize("rate, batch, dropout", [(1e-3, 4, 0.0), (3e-3, 1, 0.3), (1e-2, 2, 0.1), (3e-2, 1, 0.0)])
def test_a_healthy_training_is_left_alone(rate: float, batch: int, dropout: float) -> None:
    _, skipped = run(2000, rate=rate, batch=batch, dropout=dropout)
    assert len(skipped) <= 1

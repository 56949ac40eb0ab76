"""The weights of the codebooks against closed forms, and without a read."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from partimento.config import Loss
from partimento.errors import PartimentoError
from partimento.training.balance import DECAY, MOST, Balance

CPU = torch.device("cpu")
FINE = torch.tensor(False)
V = 1024


def balance(rule: object, books: int = 4, **loss: object) -> Balance:
    return Balance(Loss.model_validate({"codebook_weights": rule, **loss}), books, V, CPU)


def update(found: Balance, ce_K: list[float], count: float = 100.0, bad: Tensor = FINE) -> None:
    found.update(count * torch.tensor(ce_K), torch.full((len(ce_K),), count), bad)


@pytest.mark.parametrize(
    "rule, ramp, ratios",
    [
        ("equal", 0.5, [1, 1, 1, 1]),
        ("ramp", 0.5, [1, 1 + 0.5 / 3, 1 + 1 / 3, 1.5]),
        ("ramp", 0.0, [1, 1, 1, 1]),
        ("first", 3.0, [4, 1, 1, 1]),
        ([2.0, 0.0, 1.0, 1.0], 0.5, [2, 0, 1, 1]),
        ("learned", 0.5, [1, 1, 1, 1]),
    ],
)
def test_each_rule_has_its_ratios_and_a_mean_of_one(rule: object, ramp: float, ratios: list[float]) -> None:
    weights_K = balance(rule, codebook_ramp=ramp).weights_K()
    torch.testing.assert_close(weights_K, 4 * torch.tensor(ratios, dtype=torch.float32) / sum(ratios))
    assert weights_K.dtype == torch.float32 and not weights_K.requires_grad


@pytest.mark.parametrize("rule", ["equal", "ramp", "first", "learned", [3.0]])
def test_one_codebook_counts_one(rule: object) -> None:
    found = balance(rule, books=1)
    update(found, [2.0])
    assert found.weights_K().tolist() == [1.0]


@pytest.mark.parametrize("rule", [[1.0, 2.0], [0.0] * 4, []])
def test_a_list_that_does_not_fit_is_refused(rule: list[float]) -> None:
    with pytest.raises(PartimentoError, match="TRAIN020"):
        balance(rule)


def test_only_the_learned_rule_learns() -> None:
    for rule in ("equal", "ramp", "first"):
        found = balance(rule)
        before = found.weights_K().clone()
        update(found, [1.0, 2.0, 3.0, 4.0])
        assert torch.equal(found.weights_K(), before) and found.state() == {}


def test_the_running_loss_follows_its_formula() -> None:
    found, running = balance("learned", books=2), [1.0, 1.0]
    for step in range(50):
        ce_K = [3.0 + 0.01 * step, 6.0]
        update(found, ce_K, count=10.0 + step)
        running = [DECAY * r + (1 - DECAY) * ce / math.log(V) for r, ce in zip(running, ce_K, strict=True)]
    raw = [1 / r for r in running]
    assert found.weights_K().tolist() == pytest.approx([2 * r / sum(raw) for r in raw], rel=1e-5)
    assert found.state()["running"].tolist() == pytest.approx(running, rel=1e-5)


def test_where_it_rests_every_book_contributes_the_same() -> None:
    found = balance("learned")
    ce_K = [2.0, 4.0, 5.0, 6.5]
    for _ in range(3000):
        update(found, ce_K)
    torch.testing.assert_close(found.weights_K() * torch.tensor(ce_K), torch.full((4,), 4 / sum(1 / ce for ce in ce_K)))


def test_its_gradient_is_that_of_the_product_of_the_losses() -> None:
    """The fixed point minimises sum(log CE_k): the weighted gradient is parallel to that of the logarithms."""
    logits_K = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    ce_K = 1 + logits_K.exp()
    found = balance("learned")
    for _ in range(3000):
        update(found, ce_K.tolist())
    (weighted_K,) = torch.autograd.grad((found.weights_K().double() * ce_K).sum(), logits_K, retain_graph=True)
    (logarithms_K,) = torch.autograd.grad(ce_K.log().sum(), logits_K)
    torch.testing.assert_close(weighted_K / weighted_K.norm(), logarithms_K / logarithms_K.norm(), atol=1e-5, rtol=0)


def test_a_book_learned_by_heart_does_not_take_it_all() -> None:
    found = balance("learned")
    for _ in range(3000):
        update(found, [0.0, math.log(V), math.log(V), math.log(V)])
    weights = found.weights_K().tolist()
    assert weights[0] / weights[1] == pytest.approx(MOST, rel=1e-4) and sum(weights) == pytest.approx(4)


@pytest.mark.parametrize("spoil", ["bad", "nan", "empty"])
def test_what_must_not_be_learned_leaves_no_trace(spoil: str) -> None:
    found = balance("learned")
    update(found, [2.0, 3.0, 4.0, 5.0])
    before, static = found.weights_K().clone(), found.weights_K()
    match spoil:
        case "bad":
            update(found, [math.nan, 1.0, 1.0, 1.0], bad=torch.tensor(True))
        case "nan":
            update(found, [math.nan, math.inf, math.nan, math.nan])
        case "empty":
            update(found, [0.0] * 4, count=0.0)
    assert torch.equal(found.weights_K(), before)
    update(found, [9.0, 1.0, 1.0, 1.0])
    assert found.weights_K() is static and not torch.equal(static, before)  # one tensor, as recorded graphs need it


def test_a_resume_continues_to_the_bit() -> None:
    whole, first, second = balance("learned"), balance("learned"), balance("learned")
    for step in range(20):
        update(whole, [2.0 + step, 3.0, 4.0, 5.0])
        update(first if step < 9 else second, [2.0 + step, 3.0, 4.0, 5.0])
        if step == 8:
            second.load({name: tensor.clone() for name, tensor in first.state().items()})
            assert torch.equal(second.weights_K(), first.weights_K())
    assert torch.equal(whole.weights_K(), second.weights_K())


@pytest.mark.parametrize("saved", [{}, {"running": torch.ones(3)}, {"running": torch.ones(4), "more": torch.ones(4)}])
def test_a_state_that_does_not_fit_is_refused(saved: dict[str, Tensor]) -> None:
    with pytest.raises(PartimentoError, match="TRAIN003"):
        balance("learned").load(saved)


def test_nothing_is_read() -> None:
    with FakeTensorMode():
        found = balance("learned")
        found.update(torch.ones(4), torch.ones(4), torch.zeros((), dtype=torch.bool))
        assert found.weights_K().shape == (4,)

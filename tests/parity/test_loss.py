"""Our loss against torch's cross entropy in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from partimento.models import loss as module
from partimento.models.loss import code_entropy, code_loss

V = 7


def case(seed: int, eos: bool = True, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(3, 50, 2, V + eos, generator=generator, dtype=dtype)
    targets = torch.randint(0, V + 3, (3, 50, 2), generator=generator)  # codes, EOS, PAD, BOS
    return logits.requires_grad_(), targets


@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("rows", [4, 2048])
@pytest.mark.parametrize("weighted", [True, False])
def test_sums_and_gradient(eos: bool, rows: int, weighted: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CPU_ROWS", rows)
    logits, targets = case(rows + eos, eos)
    weights = torch.tensor([4.0, 0.5]) if weighted else None
    got = code_loss(logits, targets, V, weights_K=weights)

    outputs = V + eos
    ignored = targets.masked_fill(targets >= outputs, -100)
    reference = logits.detach().clone().requires_grad_()
    ce = functional.cross_entropy(
        reference.reshape(-1, outputs), ignored.reshape(-1), reduction="none", ignore_index=-100
    ).view(targets.shape)
    valid, code = targets < outputs, targets < V
    weight = valid * (weights.double() if weighted else 1.0)
    expected = (ce * weight).sum()
    torch.testing.assert_close(got.total, expected)
    assert float(got.count) == pytest.approx(float(weight.sum()))
    torch.testing.assert_close(got.code_sum_K, (ce * code).sum((0, 1)).detach())
    assert got.code_count_K.tolist() == code.sum((0, 1)).tolist()
    torch.testing.assert_close(got.eos_sum, (ce * (valid & ~code)).sum().detach())
    assert float(got.eos_count) == float((valid & ~code).sum())

    (3 * got.total / got.count).backward()
    (3 * expected / weight.sum()).backward()
    torch.testing.assert_close(logits.grad, reference.grad)


def test_gradcheck() -> None:
    logits, targets = case(5)
    few = logits[:, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: code_loss(x, targets[:, :3], V).total, few)


def test_float32_is_close_and_extreme_logits_stay_finite() -> None:
    logits, targets = case(6, dtype=torch.float32)
    exact = code_loss(logits.double(), targets, V)
    torch.testing.assert_close(code_loss(logits, targets, V).total.double(), exact.total, rtol=1e-5, atol=0)
    hard = torch.zeros(1, 1, 1, V + 1)
    hard[..., 3] = 1e4
    assert float(code_loss(hard, torch.tensor([[[0]]]), V).total) == 1e4
    assert float(code_loss(hard, torch.tensor([[[3]]]), V).total) == 0


def test_nothing_valid_is_zero_and_without_gradient() -> None:
    logits, _ = case(7)
    got = code_loss(logits, torch.full((3, 50, 2), V + 1), V)
    got.total.backward()
    assert float(got.total.detach()) == 0 and float(got.count) == 0 and logits.grad.abs().max() == 0


def test_a_negative_target_is_an_error() -> None:
    logits, targets = case(8)
    with pytest.raises(RuntimeError):
        code_loss(logits, targets - 1, V)


def test_sums_add_up_over_micro_batches() -> None:
    logits, targets = case(9)
    whole = code_loss(logits, targets, V)
    parts = [code_loss(logits[i : i + 1], targets[i : i + 1], V) for i in range(3)]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    assert sum(float(part.count) for part in parts) == float(whole.count)


def test_entropy_of_codes_leaves_eos_out() -> None:
    logits = torch.zeros(2, 5)
    logits[:, 4] = 50.0  # EOS
    torch.testing.assert_close(code_entropy(logits, 4), torch.full((2,), torch.log(torch.tensor(4.0)).item()))
    p = torch.tensor([0.5, 0.25, 0.25, 0.0])
    expected = -(p[:3] * p[:3].log()).sum()
    torch.testing.assert_close(code_entropy(p.clamp(min=1e-30).log(), 4), expected)

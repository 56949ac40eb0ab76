"""Muon against a slow loop in float64 and torch.optim.Muon."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from partimento.config import Optim
from partimento.models.layers import FeedForward
from partimento.training import muon as muon_module
from partimento.training.muon import orthogonal
from partimento.training.optim import Optimizers

GOOD, BAD = torch.tensor(False), torch.tensor(True)
OPTIM = Optim(name="muon", muon_lr=0.02, weight_decay=0.1)
STEPS = 5


def slow_orthogonal(matrix: Tensor) -> Tensor:
    """Newton-Schulz on one matrix in float64, without any transposition."""
    x = matrix.double()
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def slow_step(
    weight: Tensor, momentum: Tensor, gradient: Tensor, lr: float, parts: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    momentum = 0.95 * momentum + 0.05 * gradient.double()
    direction = (0.05 * gradient.double() + 0.95 * momentum).flatten(1)
    pieces = [slow_orthogonal(piece) * max(1, len(piece) / piece.shape[1]) ** 0.5 for piece in direction.split(parts)]
    return weight * (1 - lr * 0.1) - lr * torch.cat(pieces).view(weight.shape), momentum


def gradients(step: int, module: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(weight.shape, generator=generator) for weight in module.parameters()]


class Mixed(nn.Module):
    """Tall, wide and fused matrices, grouped and 2-D convolutions; two layers, so that batches have two."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards = nn.ModuleList(FeedForward(8, 12, "swiglu", bias=False) for _ in range(2))
        self.tall, self.wide = nn.Linear(4, 10, bias=False), nn.Linear(10, 4, bias=False)
        self.unequal = nn.Linear(6, 10, bias=False)
        self.unequal.parts = (6, 2, 2)  # type: ignore[assignment]
        self.convolution = nn.Conv1d(4, 6, 3, groups=2, bias=False)
        self.image = nn.Conv2d(2, 5, 3, bias=False)


def test_it_is_the_published_rule_matrix_by_matrix() -> None:
    """float32 against float64 after 5 steps with one skipped: 1e-4 of the largest weight."""
    torch.manual_seed(0)
    module = Mixed()
    optimizers = Optimizers(module, OPTIM)
    parts = {one.name: one.parts for one in optimizers.claims}
    assert all(one.optimizer == "muon" for one in optimizers.claims)
    expected = {name: weight.detach().double() for name, weight in module.named_parameters()}
    momentum = {name: 0 * weight for name, weight in expected.items()}
    for step in range(STEPS):
        rate = 1 - step / STEPS
        for (name, weight), gradient in zip(module.named_parameters(), gradients(step, module), strict=True):
            weight.grad = gradient * (torch.nan if step == 2 else 1)
            if step != 2:
                expected[name], momentum[name] = slow_step(
                    expected[name], momentum[name], gradient, 0.02 * rate, parts[name]
                )
        optimizers.step(BAD if step == 2 else GOOD, rate)
    for name, weight in module.named_parameters():
        torch.testing.assert_close(
            weight.double(), expected[name], rtol=0, atol=1e-4 * float(expected[name].abs().max())
        )


def test_batches_that_are_cut_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One matrix at a time against all at once: equal to 1e-6."""
    module = Mixed()
    other = copy.deepcopy(module)
    for each, at_once in ((module, 2**26), (other, 1)):
        monkeypatch.setattr(muon_module, "_AT_ONCE", at_once)
        optimizers = Optimizers(each, OPTIM)
        for weight, gradient in zip(each.parameters(), gradients(0, each), strict=True):
            weight.grad = gradient
        optimizers.step(GOOD, 1.0)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_singular_values_go_to_about_one() -> None:
    """Those above 1/100 of the largest end within [0.3, 1.3]; the directions stay."""
    u, _, v = torch.linalg.svd(torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    values = torch.logspace(0, -2, 8).expand(3, 8)
    found = orthogonal(u * values[:, None] @ v)
    turned = u.mT @ found @ v.mT
    ends = turned.diagonal(dim1=1, dim2=2)
    assert ends.min() > 0.3 and ends.max() < 1.3
    assert (turned - torch.diag_embed(ends)).abs().max() < 1e-4
    assert not orthogonal(torch.zeros(1, 3, 4)).any()


def test_it_is_torchs_but_for_torchs_bfloat16() -> None:
    """Plain matrices, 5 steps: the difference is below 2 % of the distance that the weights went (torch computes the
    five rounds in bfloat16, we in float32 on a CPU)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 48, bias=False), nn.Linear(48, 16, bias=False), nn.Linear(16, 16, bias=False))
    other, start = copy.deepcopy(module), copy.deepcopy(module)
    ours = Optimizers(module, OPTIM)
    theirs = torch.optim.Muon(other.parameters(), lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(STEPS):
        for a, b, gradient in zip(module.parameters(), other.parameters(), gradients(step, module), strict=True):
            a.grad, b.grad = gradient.clone(), gradient.clone()
        ours.step(GOOD, 1.0)
        theirs.step()
    for a, b, before in zip(module.parameters(), other.parameters(), start.parameters(), strict=True):
        assert float((a - b).detach().norm() / (b - before).detach().norm()) < 0.02

"""AdamW, fused and written out, against a slow loop in float64 and torch's own optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from partimento.config import Optim
from partimento.training import optim as optim_module
from partimento.training.optim import Optimizers

GOOD, BAD = torch.tensor(False), torch.tensor(True)
OPTIM = Optim(lr=0.02, weight_decay=0.1, betas=[0.8, 0.95])
STEPS = 12


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def gradients(step: int, module: nn.Module) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(weight.shape, generator=generator) * 10.0 ** (step % 3) for weight in module.parameters()]


def rate(step: int) -> float:
    return 1.0 - step / STEPS


def slow_loop(module: nn.Module) -> list[Tensor]:
    """Loshchilov and Hutter 2019, algorithm 2, with the decay multiplied by the rate as torch does; steps 3 and 4 are
    left out."""
    weights = [weight.detach().double() for weight in module.parameters()]
    means, squares, count = [0.0 * weight for weight in weights], [0.0 * weight for weight in weights], 0
    for step in range(STEPS):
        if step in (3, 4):
            continue
        count += 1
        lr = 0.02 * rate(step)
        for i, gradient in enumerate(gradients(step, module)):
            g = gradient.double()
            means[i] = 0.8 * means[i] + 0.2 * g
            squares[i] = 0.95 * squares[i] + 0.05 * g * g
            corrected, size = means[i] / (1 - 0.8**count), (squares[i] / (1 - 0.95**count)).sqrt()
            decay = 0.1 if weights[i].ndim == 2 else 0.0
            weights[i] = weights[i] - lr * decay * weights[i] - lr * corrected / (size + 1e-8)
    return weights


def run(module: nn.Module) -> None:
    optimizers = Optimizers(module, OPTIM)
    for step in range(STEPS):
        for weight, gradient in zip(module.parameters(), gradients(step, module), strict=True):
            weight.grad = gradient * (torch.nan if step == 3 else 1)
        optimizers.step(BAD if step in (3, 4) else GOOD, rate(step))


@pytest.mark.parametrize("fused", [True, False])
def test_it_is_the_published_rule(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 against float64 after 10 steps: 1e-5 relative, 1e-6 absolute."""
    if not fused:
        monkeypatch.setattr(optim_module, "FUSED", ())
    module = network()
    expected = slow_loop(module)
    run(module)
    for weight, reference in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.double(), reference, rtol=1e-5, atol=1e-6)


def test_it_is_torchs_fused_one_bit_for_bit() -> None:
    module = network()
    other = copy.deepcopy(module)
    matrices, vectors = (
        [weight for weight in other.parameters() if (weight.ndim > 1) is wanted] for wanted in (True, False)
    )
    theirs = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.8, 0.95),
        fused=True,
    )
    run(module)
    for step in range(STEPS):
        if step in (3, 4):
            continue
        for weight, gradient in zip(other.parameters(), gradients(step, other), strict=True):
            weight.grad = gradient
        for group in theirs.param_groups:
            group["lr"] = 0.02 * rate(step)
        theirs.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))

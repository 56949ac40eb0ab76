"""AdaGC against a slow loop in float64, through its warm-up and past it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from partimento.config import Optim
from partimento.training import adagc as adagc_module
from partimento.training.adagc import AdaGC
from partimento.training.optim import total_norm

LIMIT, SCALE, STEPS = 2.0, 0.25, 30


class SlowLoop:
    """One number at a time: algorithm 1 of the paper, without the tensors whose norm is 0 (see AdaGC)."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.accepted, self.means = warmup, 0, dict[str, float]()

    def clip(self, gradients: Mapping[str, Tensor], bad: bool) -> dict[str, Tensor]:
        scaled = {name: gradient.double() * SCALE for name, gradient in gradients.items()}
        norms = {name: math.sqrt(sum(float(value) ** 2 for value in g.flatten())) for name, g in scaled.items()}
        total = math.sqrt(sum(norm**2 for norm in norms.values()))
        if bad:
            return {}
        for name, norm in norms.items():
            mean = self.means.get(name)
            if self.accepted < self.warmup or mean is None:
                factor = min(1.0, LIMIT / (total + 1e-6))
                kept = norm * factor if mean is None else min(mean, norm * factor)
            else:
                factor = min(1.0, 1.05 * mean / norm) if norm else 1.0
                kept = 0.98 * mean + 0.02 * norm * factor
            scaled[name] *= factor
            if norm > 0:
                self.means[name] = kept
        self.accepted += 1
        return scaled


def drawn(step: int) -> dict[str, Tensor]:
    """Bursts in one tensor, a tensor that is first needed in step 5 (and then only now and then), one that fades."""
    generator = torch.Generator().manual_seed(step)
    sizes = {
        "calm": 1.0,
        "burst": 50.0 if step % 7 == 6 else 1.0,
        "rare": float(step >= 5 and step % 3 == 2),
        "fades": 0.9**step,
    }
    return {name: size * torch.randn(5, 3, generator=generator) for name, size in sizes.items()}


def bad(step: int) -> bool:
    return step in (2, 17)


def run(named: dict[str, Tensor], clip: AdaGC, slow: SlowLoop) -> None:
    for step in range(STEPS):
        gradients = drawn(step)
        for name, weight in named.items():
            gradient = gradients[name] * (math.inf if bad(step) else 1)
            like = weight
            weight.grad = (
                distribute_tensor(gradient, like.device_mesh, like.placements)
                if isinstance(like, DTensor)
                else gradient
            )
        norm = total_norm([weight.grad for weight in named.values() if weight.grad is not None]) * SCALE
        clip.clip_(torch.tensor(SCALE), norm, torch.tensor(bad(step)))
        for name, reference in slow.clip(gradients, bad(step)).items():
            found = named[name].grad
            assert found is not None
            found = found.full_tensor() if isinstance(found, DTensor) else found
            torch.testing.assert_close(found.double(), reference, rtol=1e-5, atol=1e-9)
        for name, mean in slow.means.items():
            assert float(clip.state()[f"{name}.mean_norm"]) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("warmup", [0, 3, 12])
def test_it_is_the_published_rule(warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 against float64, every gradient and mean of 30 steps: 1e-5 relative."""
    monkeypatch.setattr(adagc_module, "WARMUP", warmup)
    named: dict[str, Tensor] = {name: nn.Parameter(torch.zeros(5, 3)) for name in drawn(0)}
    run(named, AdaGC(named, Optim(clip=LIMIT, adagc=True)), SlowLoop(warmup))


def test_a_burst_is_cut_where_it_is_and_nowhere_else() -> None:
    named = {name: nn.Parameter(torch.zeros(4)) for name in ("a", "b")}
    clip = AdaGC(named, Optim(clip=100.0))
    clip.accepted += adagc_module.WARMUP - 1
    for size in (1.0, 1000.0):
        named["a"].grad, named["b"].grad = torch.full((4,), size), torch.ones(4)
        gradients = [weight.grad for weight in named.values() if weight.grad is not None]
        clip.clip_(torch.tensor(1.0), total_norm(gradients), torch.tensor(False))
    assert gradients[0].norm() == pytest.approx(2.1) and torch.equal(gradients[1], torch.ones(4))

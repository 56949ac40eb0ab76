"""Muon on convolutions against torch.optim.Muon, which takes matrices only, on the same matrices."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from partimento.config import Optim
from partimento.training.optim import Optimizers

GOOD = torch.tensor(False)
OPTIM = Optim(name="muon", muon_lr=0.02, weight_decay=0.1)
STEPS = 5


def slow_matrices(layer: nn.Module, kernel: Tensor) -> list[Tensor]:
    """One matrix [outputs, what an output sees] a group, gathered element by element."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d)
    groups = layer.groups
    inputs, outputs = layer.in_channels // groups, layer.out_channels // groups
    rows: list[list[Tensor]] = [[] for _ in range(layer.out_channels)]
    for group in range(groups):
        for output in range(outputs):
            for i in range(inputs):
                if isinstance(layer, nn.ConvTranspose1d):
                    taps = kernel[group * inputs + i, output]
                else:
                    taps = kernel[group * outputs + output, i]
                rows[group * outputs + output] += list(taps.flatten())
    whole = torch.stack([torch.stack(row) for row in rows])
    return list(whole.split(outputs))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 12), (12, 4)])
def test_convolutions_move_as_their_matrices_do(kind: type[nn.Module], inputs: int, outputs: int, groups: int) -> None:
    """5 steps: the difference is below 2 % of the distance that the weights went (torch computes the five rounds in
    bfloat16, we in float32 on a CPU). With inputs and outputs exchanged it is beyond 50 %."""
    torch.manual_seed(0)
    layer = kind(inputs, outputs, 3, groups=groups, bias=False)
    weight = layer.get_parameter("weight")
    start = copy.deepcopy(layer).get_parameter("weight").detach()
    ours = Optimizers(layer, OPTIM)
    twins = [nn.Parameter(matrix.detach().clone()) for matrix in slow_matrices(layer, weight)]
    theirs = torch.optim.Muon(twins, lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(STEPS):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        for twin, gradient in zip(twins, slow_matrices(layer, weight.grad), strict=True):
            twin.grad = gradient.clone()
        ours.step(GOOD, 1.0)
        theirs.step()
    for twin, now, before in zip(twins, slow_matrices(layer, weight), slow_matrices(layer, start), strict=True):
        assert float((now - twin).detach().norm() / (twin - before).detach().norm()) < 0.02

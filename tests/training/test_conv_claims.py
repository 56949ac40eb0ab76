"""Which optimizer trains what a network on waves is made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from partimento.config import Optim
from partimento.training.groups import claim, from_matrices, matrices
from partimento.waveform.generators import GeneratorConfig, make_generator
from partimento.waveform.generators.common import Snake

MUON = Optim(name="muon", weight_decay=0.1)


def test_what_reads_or_writes_a_single_channel_is_not_hidden() -> None:
    module = nn.ModuleDict(
        {
            "first": nn.Conv1d(1, 8, 7),
            "last": nn.Conv1d(8, 1, 7),
            "last_up": nn.ConvTranspose1d(8, 1, 4, stride=2),
            "first_image": nn.Conv2d(1, 8, (5, 1)),
            "score": nn.Conv2d(8, 1, (3, 1)),
            "hidden": nn.Conv1d(2, 8, 7),
        }
    )
    claims = {one.name: one for one in claim(module, MUON) if one.name.endswith("weight")}
    assert [name for name, one in claims.items() if one.optimizer == "muon"] == ["hidden.weight"]
    assert all(one.weight_decay == 0.1 for one in claims.values())


def test_a_snake_is_neither_a_matrix_nor_decayed() -> None:
    (one,) = claim(Snake(5), MUON)
    assert (one.name, one.optimizer, one.weight_decay) == ("alpha", "adamw", 0.0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_a_row_is_what_an_output_sees(kind: type[nn.Module], groups: int) -> None:
    """A gradient that only output 4 gets lies in row 4, and comes back from there."""
    layer = kind(4, 6, 3, groups=groups, bias=False)
    (one,) = claim(layer, MUON)
    assert one.optimizer == "muon" and one.parts == (6 // groups,) * groups
    flat = isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
    layer(torch.randn(1, 4, 7) if flat else torch.randn(1, 4, 7, 7))[:, 4].sum().backward()
    gradient = one.parameter.grad
    assert gradient is not None
    found = matrices(torch.stack([gradient, 2 * gradient]), one)
    assert found.shape == (2, 6, gradient.numel() // 6)
    assert found[:, 4].all() and not found[:, [0, 1, 2, 3, 5]].any()
    assert torch.equal(from_matrices(found, one), torch.stack([gradient, 2 * gradient]))


def test_a_depthwise_transposed_convolution_is_no_matrix() -> None:
    assert [one.optimizer for one in claim(nn.ConvTranspose1d(4, 4, 3, groups=4, bias=False), MUON)] == ["adamw"]


@pytest.mark.parametrize("net", ["spectral", "dac", "convnext", "patch", "melgan"])
def test_muon_takes_the_hidden_layers_of_each_generator(net: str) -> None:
    small = {"width": 8, "hop": 16} if net == "spectral" else {"width": 8, "strides": [2, 2], "stem": 2}
    module = make_generator(GeneratorConfig.of(net, **small))
    layers = dict(module.named_modules())
    for one in claim(module, MUON):
        owner = layers[one.name.rpartition(".")[0]]
        depthwise = isinstance(owner, nn.Conv1d) and owner.groups == owner.in_channels > 1
        ends = one.name.startswith(("stem.", "head."))
        hidden = one.parameter.ndim > 1 and not (depthwise or ends or isinstance(owner, Snake))
        assert (one.optimizer == "muon") == hidden, one.name
        assert one.inputs_first == isinstance(owner, nn.ConvTranspose1d)

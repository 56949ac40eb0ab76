"""Weights in fewer bits: error bounds against float64, and a module that is as it was after."""

from __future__ import annotations

import pytest
import torch

from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.linear import Linear
from partimento.models.quantized import Weights, narrow, narrowed, quantize

CONFIG = DecoderConfig(codebooks=3, rows=22, outputs=20, width=48, layers=2, heads=4, bias=True)


def test_every_row_has_its_own_scale_and_uses_it_whole() -> None:
    weight_OI = torch.randn(40, 64) * torch.logspace(-6, 3, 40)[:, None]
    levels, scale_O = quantize(weight_OI)
    assert levels.dtype == torch.int8 and (levels.abs().amax(dim=1) == 127).all()
    assert ((levels * scale_O[:, None] - weight_OI).abs() <= scale_O[:, None] * 0.5001).all()
    assert torch.equal(quantize(-weight_OI)[0], -levels), "symmetric"


def test_a_row_of_zeros_stays_one() -> None:
    levels, scale_O = quantize(torch.zeros(2, 5))
    assert not levels.any() and (scale_O == 1).all()


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_products_stay_within_the_stated_bound(weights: Weights) -> None:
    """int8: half a level of every weight; bf16: 2^-9 of every weight. (Float32's own rounding is 1e-6 of the sums.)"""
    layer = Linear(96, 70)
    x = torch.randn(5, 96)
    exact = x.double() @ layer.weight.double().T + layer.bias.double()
    with narrowed(layer, weights), torch.no_grad():
        off = (layer(x).double() - exact).abs()
    size, most = x.double().abs(), layer.weight.detach().double().abs()
    bound = size.sum(1)[:, None] * most.amax(1) / 254 if weights == "int8" else size @ most.T * 2**-9
    assert (off <= bound + 1e-6 * (size @ most.T)).all()
    assert off.max() > 1e-5, "it is rounded"


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_a_decoder_is_near_and_then_as_before(weights: Weights) -> None:
    torch.manual_seed(0)
    decoder = CodeDecoder(CONFIG).eval()
    grid_BSK = torch.randint(0, 20, (2, 30, 3))
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    with torch.no_grad():
        logits = decoder(grid_BSK)
        with narrowed(decoder, weights):
            near = decoder(grid_BSK)
        assert torch.equal(decoder(grid_BSK), logits)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    off = (near - logits).square().mean().sqrt() / logits.std()
    assert 1e-4 < off < {"bf16": 0.01, "int8": 0.03}[weights], "of the spread of the logits"


def test_full_is_nothing_at_all() -> None:
    layer = Linear(4, 4)
    with narrowed(layer, "full"):
        assert layer.narrow is None
    weight, scale = narrow(layer.weight, "full")
    assert weight is layer.weight and scale is None

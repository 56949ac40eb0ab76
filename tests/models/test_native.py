"""The step in C++ against the decoder itself: every part of the architecture, every way of feeding rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.conditions import NOTHING, Told
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.native.program import NativeDecoder
from partimento.models.quantized import Weights, narrowed

ITEMS, STEPS, BOOKS, ROWS = 5, 80, 3, 70
SMALL: dict[str, Any] = {"codebooks": BOOKS, "rows": ROWS, "outputs": 67, "width": 40, "layers": 2, "heads": 4}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"kv_heads": 2, "head_width": 24},
    "many queries to a key": {"heads": 8, "kv_heads": 1, "head_width": 6},
    "musicgen": {"norm": "layer", "activation": "gelu", "positions": "sinusoidal", "qk_norm": False, "bias": True},
    "wide heads, memory": {"positions": "learned", "head_width": 80, "cross_width": 20, "cross_kv_heads": 2},
    "dia": {"qk_norm": False, "cross_width": 20, "cross_heads": 2, "cross_head_width": 10, "attention_scale": 1.0},
    "dia of april": {"cross_width": 20, "cross_attention_rope": True},
    "tags": {"tags": 3},
    "odd": {"norm": "layer", "positions": "sinusoidal", "qk_norm": False, "width": 39, "heads": 3, "feedforward": 77},
    "wider than a panel of inputs": {"width": 64, "feedforward": 1100, "layers": 1},
}


def make(case: str) -> tuple[CodeDecoder, Told, Tensor]:
    torch.manual_seed(1)
    config = DecoderConfig(**{**SMALL, "max_positions": 100, **CASES[case]})
    decoder = CodeDecoder(config).eval()
    for name, weight in decoder.named_parameters():
        with torch.no_grad():
            if weight.ndim == 1:
                weight.normal_("norm" in name, 0.2)
            else:
                weight.normal_(0, 0.3 if name == "embedding" else weight.shape[1] ** -0.5)
    told = NOTHING
    if config.cross_width:
        mask_BM = torch.rand(ITEMS, 70) > 0.4
        mask_BM[2] = False  # an item that reads nothing
        told = Told(memory_BMD=torch.randn(ITEMS, 70, config.cross_width), mask_BM=mask_BM)
    if config.tags:
        told = Told(torch.randn(ITEMS, config.width))
    return decoder, told, torch.randint(0, ROWS, (ITEMS, STEPS, BOOKS))


@torch.no_grad()
def fed(native: NativeDecoder, grid_BSK: Tensor, first: int) -> Tensor:
    """Logits after the first rows at once, then row by row."""
    found = [native(grid_BSK[:, :first])] + [native(row[:, None]) for row in grid_BSK[:, first:].unbind(1)]
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_decoder(case: str) -> None:
    """2e-5 of the largest logit: float32 in another order of sums."""
    decoder, told, grid_BSK = make(case)
    with torch.no_grad():
        expected = decoder(grid_BSK, **told.arguments())
    native = NativeDecoder(decoder, ITEMS, STEPS, told, "full")
    for first in (1, 40):  # one row, and more than one call takes
        native.reset()
        off = (fed(native, grid_BSK, first) - expected[:, first - 1 :]).abs().max()
        assert off <= 2e-5 * expected.abs().max()


NARROW_CASES = ["plain", "musicgen", "dia of april", "wider than a panel of inputs", "odd"]


@pytest.mark.parametrize("case", NARROW_CASES)
def test_int8_weights_are_rounded_as_everywhere(case: str) -> None:
    decoder, told, grid_BSK = make(case)
    with torch.no_grad(), narrowed(decoder, "int8"):
        expected = decoder(grid_BSK, **told.arguments())
    found = fed(NativeDecoder(decoder, ITEMS, STEPS, told, "int8"), grid_BSK, 70)
    assert (found - expected[:, 69:]).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("case", NARROW_CASES)
def test_bf16_rounds_both_factors_and_nothing_else(case: str) -> None:
    """Within 1 % of the spread of the logits: two factors of every product are each off by up to 2^-9 (0.2 %)."""
    decoder, told, grid_BSK = make(case)
    with torch.no_grad(), narrowed(decoder, "bf16"):
        expected = decoder(grid_BSK, **told.arguments())
    native = NativeDecoder(decoder, ITEMS, STEPS, told, "bf16")
    for first in (1, 40):
        native.reset()  # what is left of the earlier playing is not read
        off = (fed(native, grid_BSK, first) - expected[:, first - 1 :]).square().mean().sqrt() / expected.std()
        assert 1e-4 < off < 0.01


@torch.no_grad()
def test_products_in_bf16_stay_within_the_stated_bound() -> None:
    """Of both factors at most 2^-9 is lost, and 1e-6 of the sums to float32; odd inputs, a part of a panel."""
    decoder, told, grid_BSK = make("odd")
    for name, weight in decoder.named_parameters():  # only embeddings, a norm and the heads are left
        if name.endswith(("out.weight", "down.weight")):
            weight.zero_()
    seen: list[Tensor] = []
    with decoder.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        decoder(grid_BSK[:, :9])
    x_ND = seen[0][:, -1].double()
    weight_OD = decoder.head.weight.double()
    found = NativeDecoder(decoder, ITEMS, STEPS, told, "bf16")(grid_BSK[:, :9]).flatten(1)
    off = (found - x_ND @ weight_OD.T).abs()
    assert (off <= x_ND.abs() @ weight_OD.abs().T * (2**-8 + 2**-18 + 1e-6)).all()
    assert off.max() > 1e-4, "it is rounded"


@pytest.mark.parametrize("weights", ["full", "bf16", "int8"])
def test_an_item_is_the_same_to_the_bit_in_any_batch(weights: Weights) -> None:
    decoder, told, grid_BSK = make("dia")
    together = fed(NativeDecoder(decoder, ITEMS, STEPS, told, weights), grid_BSK, 20)
    assert told.memory_BMD is not None and told.mask_BM is not None
    for item in (0, 2, 4):
        alone = Told(memory_BMD=told.memory_BMD[item : item + 1], mask_BM=told.mask_BM[item : item + 1])
        native = NativeDecoder(decoder, 1, STEPS, alone, weights)
        assert torch.equal(fed(native, grid_BSK[item : item + 1], 20)[0], together[item])


def test_later_changes_of_the_weights_do_not_reach_it() -> None:
    decoder, told, grid_BSK = make("plain")
    native = NativeDecoder(decoder, ITEMS, STEPS, told, "full")
    before = native(grid_BSK[:, :4])
    native.reset()
    with torch.no_grad():
        decoder.head.weight.mul_(2)
    assert torch.equal(native(grid_BSK[:, :4]), before)
    changed = NativeDecoder(decoder, ITEMS, STEPS, told, "full")
    assert torch.equal(changed(grid_BSK[:, :4]), 2 * before), "nothing that was packed before is taken for them"
    decoder.head.weight.data.mul_(0.5)  # no counter of changes sees this
    again = NativeDecoder(decoder, ITEMS, STEPS, told, "full")
    assert torch.equal(again(grid_BSK[:, :4]), before)


def test_what_does_not_fit_is_refused() -> None:
    decoder, _, grid_BSK = make("plain")
    native = NativeDecoder(decoder, ITEMS, 10, NOTHING, "full")
    native(grid_BSK[:, :9])
    with pytest.raises(PartimentoError, match="MODEL004"):
        native(grid_BSK[:, :2])
    with pytest.raises(PartimentoError, match="MODEL004"):
        NativeDecoder(decoder, ITEMS, 101, NOTHING, "full")
    with pytest.raises(PartimentoError, match="MODEL005"):
        NativeDecoder(decoder, ITEMS, 10, Told(torch.zeros(ITEMS, 40)), "full")

"""The mixture's step in C++ against the decoder itself: every kind of expert, texts of every length."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.conditions import NOTHING
from partimento.models.native.mixture import NativeMixture

sys.path.append(str(Path(__file__).parents[1] / "sampling"))
from tiny_decoders import SPECIALS, K
from tiny_mixtures import EXPERTS, mixture, told

LENGTHS, STEPS = [7, 1, 70], 40


@torch.no_grad()
def fed(native: NativeMixture, grid_BSK: Tensor, first: int) -> Tensor:
    found = [native(grid_BSK[:, :first])] + [native(row[:, None]) for row in grid_BSK[:, first:].unbind(1)]
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("experts", EXPERTS)
def test_logits_are_those_of_the_decoder(experts: str) -> None:
    model = mixture(experts)
    grid_BSK = torch.randint(0, SPECIALS.rows, (len(LENGTHS), STEPS, K))
    texts = told(model, LENGTHS)
    with torch.no_grad():
        expected = model.decoder(grid_BSK, prefix=texts.prefix)
    native = NativeMixture(model.decoder, len(LENGTHS), STEPS, texts, "full")
    for first in (5, 33, 1):
        native.reset()
        torch.testing.assert_close(fed(native, grid_BSK, first), expected[:, first - 1 :], atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_narrow_weights_are_near(weights: str) -> None:
    model = mixture("feedforward", "shared")
    grid_BSK = torch.randint(0, SPECIALS.rows, (len(LENGTHS), STEPS, K))
    texts = told(model, LENGTHS)
    with torch.no_grad():
        expected = model.decoder(grid_BSK, prefix=texts.prefix)
    found = fed(NativeMixture(model.decoder, len(LENGTHS), STEPS, texts, weights), grid_BSK, 9)
    off = (found - expected[:, 8:]).square().mean().sqrt() / expected.std()
    assert 1e-5 < off < 0.05


def test_changed_experts_are_packed_again() -> None:
    model = mixture("lora")
    grid_BSK, texts = torch.randint(0, SPECIALS.rows, (1, 6, K)), told(model, [4])
    before = NativeMixture(model.decoder, 1, 6, texts, "full")(grid_BSK)
    with torch.no_grad():
        model.decoder.experts[1].lora_B["gate"].mul_(-2)
        expected = model.decoder(grid_BSK, prefix=texts.prefix)[:, -1]
    after = NativeMixture(model.decoder, 1, 6, texts, "full")(grid_BSK)
    assert not torch.allclose(before, after, atol=1e-2)
    torch.testing.assert_close(after, expected, atol=3e-4, rtol=1e-4)


def test_what_cannot_be_played_is_said() -> None:
    model = mixture()
    with pytest.raises(PartimentoError, match="MODEL044"):
        NativeMixture(model.decoder, 1, 6, NOTHING, "full")
    with pytest.raises(PartimentoError, match="MODEL004"):
        NativeMixture(model.decoder, 1, 250, told(model, [200]), "full")

"""A stereo decoder that begins with a mono decoder's weights, and so with its loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.warm import stereo_from_mono
from partimento.tokens.patterns import Pattern, apply
from partimento.tokens.spec import Specials

K, CARDINALITY = 3, 12
SPECIALS = Specials.after(CARDINALITY)


def tiny(codebooks: int, seed: int, **changes: Any) -> CodeDecoder:
    torch.manual_seed(seed)
    sizes = {"rows": SPECIALS.rows, "outputs": CARDINALITY + 1, "width": 32, "layers": 2, "heads": 4}
    decoder = CodeDecoder(
        DecoderConfig(**{"codebooks": codebooks, **sizes, "cross_width": 10, "max_positions": 64, **changes})
    )
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


@torch.no_grad()
def losses_K(decoder: CodeDecoder, codes_BTK: Tensor, pattern: str, channels: tuple[int, ...], told: Any) -> Tensor:
    """Mean cross entropy of the codes of each codebook."""
    laid = Pattern.named(pattern, sum(channels), channels)
    grid_BSK = apply(codes_BTK, laid, SPECIALS, ends=True)
    loss = decoder.loss(grid_BSK[:, :-1], grid_BSK[:, 1:], CARDINALITY, **told)
    return loss.code_sum_K / loss.code_count_K


def told() -> dict[str, Tensor]:
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    return {"memory_BMD": torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(3)), "memory_mask_BM": mask}


def codes(books: int, seed: int) -> Tensor:
    return torch.randint(0, CARDINALITY, (2, 15, books), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pattern", ["delay", "parallel", "dia"])
def test_left_right_begins_with_the_loss_of_mono_in_each_channel(pattern: str) -> None:
    mono, stereo = tiny(K, 0), tiny(2 * K, 1)
    codes_BTK = codes(K, 5)
    expected_K = losses_K(mono, codes_BTK, pattern, (K,), told())
    before = losses_K(stereo, codes_BTK.repeat(1, 1, 2), pattern, (K, K), told())
    stereo_from_mono(mono, stereo, "left-right", (K, K))
    got = losses_K(stereo, codes_BTK.repeat(1, 1, 2), pattern, (K, K), told())
    torch.testing.assert_close(got, expected_K.repeat(2), rtol=0, atol=1e-5)
    assert (before - got).abs().max() > 0.1


@pytest.mark.parametrize("pattern", ["delay", "parallel", "dia"])
@pytest.mark.parametrize("side", [K, 1])
def test_mid_side_begins_with_the_loss_of_mono_whatever_the_side(pattern: str, side: int) -> None:
    mono, stereo = tiny(K, 0, tags=2), tiny(K + side, 1, tags=2, max_positions=80, dropout=0.1)
    extra = {**told(), "condition_BD": torch.randn(2, 32)}
    mid_BTK = codes(K, 5)
    expected_K = losses_K(mono, mid_BTK, pattern, (K,), extra)
    stereo_from_mono(mono, stereo, "mid-side", (K, side))
    for seed in (6, 7):
        got = losses_K(stereo, torch.cat([mid_BTK, codes(side, seed)], 2), pattern, (K, side), extra)
        torch.testing.assert_close(got[:K], expected_K, rtol=0, atol=1e-5)
        torch.testing.assert_close(got[K:], torch.full((side,), CARDINALITY + 1.0).log(), rtol=0, atol=1e-5)
    assert stereo.condition is not None and mono.condition is not None
    assert torch.equal(stereo.condition.null_D, mono.condition.null_D)


def test_the_side_learns_from_the_first_step() -> None:
    """Zeros would stay zeros if a gradient needed both of embedding and head."""
    mono, stereo = tiny(K, 0), tiny(2 * K, 1)
    stereo_from_mono(mono, stereo, "mid-side", (K, K))
    grid = apply(codes(2 * K, 4), Pattern.named("delay", 2 * K, (K, K)), SPECIALS, ends=True)
    stereo.loss(grid[:, :-1], grid[:, 1:], CARDINALITY, **told()).total.backward()
    for parameter in (stereo.embedding, stereo.head.weight):
        assert parameter.grad is not None
        assert (parameter.grad.unflatten(0, (2 * K, -1))[K:].abs().amax((1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("changes", "layout", "books", "words"),
    [
        ({}, "mono", (K, K), "layout is mono"),
        ({}, "left-right", (K + 1, K - 1), "3 and 3"),
        ({}, "left-right", (2 * K,), "3 and 3"),
        ({}, "mid-side", (1, 2 * K - 1), "any number"),
        ({"codebooks": 2 * K + 1}, "left-right", (K, K), "has 7"),
        ({"width": 40}, "left-right", (K, K), "width"),
        ({"layers": 3}, "mid-side", (K, K), "layers"),
        ({"cross_attention_rope": True}, "mid-side", (K, K), "cross_attention_rope"),
        ({"rows": 20}, "mid-side", (K, K), "rows"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    changes: dict[str, Any], layout: str, books: tuple[int, ...], words: str
) -> None:
    mono, stereo = tiny(K, 0), tiny(**{"codebooks": 2 * K, "seed": 1, **changes})
    before = {name: value.clone() for name, value in stereo.state_dict().items()}
    with pytest.raises(PartimentoError) as error:
        stereo_from_mono(mono, stereo, layout, books)
    assert error.value.code == "MODEL022" and words in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in stereo.state_dict().items())


def test_learned_positions_must_be_as_many() -> None:
    mono, stereo = tiny(K, 0, positions="learned"), tiny(2 * K, 1, positions="learned", max_positions=65)
    with pytest.raises(PartimentoError, match="max_positions"):
        stereo_from_mono(mono, stereo, "left-right", (K, K))

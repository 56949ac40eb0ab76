"""The factorised quantizer against transformers' DacResidualVectorQuantizer with the same random weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DacConfig
from transformers.models.dac.modeling_dac import DacResidualVectorQuantizer

from partimento.waveform.factorised import FactorisedQuantizer

CLOSE = 1e-5
K, V, D, FACTOR = 4, 64, 12, 5


def pair(dtype: torch.dtype = torch.float32) -> tuple[FactorisedQuantizer, DacResidualVectorQuantizer]:
    torch.manual_seed(0)
    theirs = DacResidualVectorQuantizer(
        DacConfig(hidden_size=D, n_codebooks=K, codebook_size=V, codebook_dim=FACTOR, quantizer_dropout=0.0)
    )
    mine = FactorisedQuantizer(K, V, D, FACTOR)
    with torch.no_grad():
        for stage, other in zip(mine.stages, theirs.quantizers, strict=True):
            for projection, conv in ((stage.inward, other.in_proj), (stage.outward, other.out_proj)):
                projection.weight.copy_(conv.weight[..., 0])
                projection.bias.copy_(conv.bias)
            stage.book.weight.copy_(other.codebook.weight)
    mine.begin_with_books()
    return mine.to(dtype).eval(), theirs.to(dtype).eval()


def latents(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 50, D, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
def test_codes_and_latents() -> None:
    mine, theirs = pair()
    latent = latents()
    quantized = mine(latent)
    expected, codes, *_ = theirs(latent.transpose(1, 2))
    assert torch.equal(quantized.codes_BTK, codes.transpose(1, 2))
    assert torch.equal(mine.encode(latent), quantized.codes_BTK)
    assert float((quantized.latent_BTD - expected.transpose(1, 2)).abs().max()) < CLOSE
    for books in range(1, K + 1):
        decoded = mine.decode(quantized.codes_BTK[..., :books]).transpose(1, 2)
        assert float((decoded - theirs.from_codes(codes[:, :books])[0]).abs().max()) < CLOSE


def test_losses_and_gradients_in_float64() -> None:
    """Of every weight and of the latents, for a loss on what comes out plus DAC's two."""
    mine, theirs = pair(torch.float64)
    one, two = latents(torch.float64).requires_grad_(), latents(torch.float64).requires_grad_()
    target = torch.randn(2, 50, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    quantized = mine(one)
    (F.mse_loss(quantized.latent_BTD, target) + quantized.commitment).backward()
    made, _, _, commit, codebook = theirs(two.transpose(1, 2))
    loss = 0.25 * commit.mean() + codebook.mean()
    (F.mse_loss(made.transpose(1, 2), target) + loss).backward()
    assert float(quantized.commitment.detach()) == pytest.approx(float(loss.detach()), rel=1e-12)
    assert torch.allclose(one.grad, two.grad, rtol=1e-10, atol=1e-14)
    for stage, other in zip(mine.stages, theirs.quantizers, strict=True):
        pairs = [
            (stage.inward.weight, other.in_proj.weight),
            (stage.inward.bias, other.in_proj.bias),
            (stage.outward.weight, other.out_proj.weight),
            (stage.outward.bias, other.out_proj.bias),
            (stage.book.weight, other.codebook.weight),
        ]
        for ours, expected in pairs:
            assert float(expected.grad.abs().max()) > 0
            assert torch.allclose(ours.grad, expected.grad.view_as(ours), rtol=1e-10, atol=1e-14)


@torch.no_grad()
def test_dropped_stages_give_nothing_and_cost_nothing() -> None:
    """Item b with books_B[b] stages is what DAC gives of it alone with n_quantizers of as many."""
    mine, theirs = pair(torch.float64)
    latent, books_B = latents(torch.float64), torch.tensor([1, 3])
    quantized = mine(latent, books_B)
    losses = []
    for b, books in enumerate(books_B.tolist()):
        made, _, _, commit, codebook = theirs(latent[b : b + 1].transpose(1, 2), n_quantizers=books)
        assert float((quantized.latent_BTD[b] - made[0].T).abs().max()) < 1e-12
        losses.append(float((0.25 * commit + codebook).mean()))
    assert float(quantized.commitment) == pytest.approx(sum(losses) / 2, rel=1e-12)

"""Causal attention on a CPU against torch's, in float64, in values, gradients and where it is taken."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from partimento.models import causal
from partimento.models.causal import causal_attention
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.linear import HAS_ONEDNN

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN linear")
needs_bf16 = pytest.mark.skipif(not causal._HAS_BF16, reason="oneDNN has no bfloat16 on this processor")


def parts(steps: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """Query, key, value [B, S, H, E] as views of one projection, as the decoder gives them."""
    generator = torch.Generator().manual_seed(seed)
    fused = torch.randn(2, steps, 9, 16, generator=generator).to(dtype)
    return [part.requires_grad_() for part in fused.split(3, dim=2)]


def torchs(given: list[torch.Tensor], scale: float) -> torch.Tensor:
    query, key, value = (part.transpose(1, 2) for part in given)
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale).transpose(1, 2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float32, 1e-6, marks=needs_onednn),
        pytest.param(torch.bfloat16, 0.015, marks=needs_bf16),  # 8 bits in scores, probabilities and results
    ],
)
@pytest.mark.parametrize("steps", [64, 128, 131, 300])
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_values_and_gradients(dtype: torch.dtype, tolerance: float, steps: int, scale: float) -> None:
    given = parts(steps, dtype, seed=steps)
    exact = [part.detach().double().requires_grad_() for part in given]
    upstream = torch.randn(2, steps, 3, 16).to(dtype)
    got, expected = causal_attention(*given, scale), torchs(exact, scale)
    assert got.dtype == dtype and got.is_contiguous()
    gradients = torch.autograd.grad(got, given, upstream)
    wanted = torch.autograd.grad(expected, exact, upstream.double())
    for ours, theirs in zip([got, *gradients], [expected, *wanted], strict=True):
        assert float((ours.double() - theirs).detach().norm() / theirs.detach().norm()) < tolerance


@needs_onednn
def test_the_operator_keeps_its_contract() -> None:
    """Shapes and strides that it promises to a compiler, no aliases, its gradient, autograd's registration."""
    torch.library.opcheck(causal_attention, (*parts(70, torch.float32), 0.25))


@needs_onednn
def test_rows_do_not_see_later_ones() -> None:
    given = [part.detach() for part in parts(300, torch.float32)]
    before = causal_attention(*given, 0.25)
    for part in given:
        part[:, 290:] = torch.nan
    after = causal_attention(*given, 0.25)
    assert torch.equal(after[:, :256], before[:, :256])  # earlier blocks are not even multiplied with them
    assert after[:, 290:].isnan().all()
    for part in given:
        part[:, 290:] = 7.0
    torch.testing.assert_close(causal_attention(*given, 0.25)[:, :290], before[:, :290], rtol=1e-6, atol=1e-6)


@needs_onednn
def test_equal_runs_are_bit_equal() -> None:
    def run() -> list[torch.Tensor]:
        given = parts(131, torch.float32)
        made = causal_attention(*given, 0.25)
        return [made, *torch.autograd.grad(made.square().sum(), given)]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_where_it_is_taken(monkeypatch) -> None:
    monkeypatch.setattr(causal, "_few_threads", lambda: True)
    query = torch.zeros(1, 64, 4, 8)
    assert causal.suits(query, query) == HAS_ONEDNN
    assert not causal.suits(query, query[:, :, :2]), "grouped queries are torch's"
    assert not causal.suits(query[:, :32], query[:, :32])
    assert not causal.suits(query.double(), query.double())
    assert not causal.suits(query.to("meta"), query.to("meta"))
    monkeypatch.setattr(causal, "_few_threads", lambda: False)
    assert not causal.suits(query, query)


@needs_onednn
@pytest.mark.parametrize("autocast", [False, pytest.param(True, marks=needs_bf16)])
def test_the_decoder_learns_the_same_with_it(autocast: bool, monkeypatch) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(codebooks=2, rows=12, outputs=10, width=32, layers=2, heads=2, max_positions=80)
    decoder = CodeDecoder(config).train()
    grid = torch.randint(0, 10, (2, 81, 2))

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            total = decoder.loss(grid[:, :-1], grid[:, 1:], 10).total
        found = torch.autograd.grad(total, list(decoder.parameters()))
        return total.detach(), torch.cat([gradient.flatten() for gradient in found])

    called = []
    real = causal.causal_attention
    monkeypatch.setattr(causal, "causal_attention", lambda *given: called.append(1) or real(*given))
    loss, gradient = gradients()
    assert len(called) == 2
    monkeypatch.setattr(causal, "suits", lambda query, key: False)
    torchs_loss, torchs_gradient = gradients()
    assert len(called) == 2
    torch.testing.assert_close(loss, torchs_loss, rtol=1e-3 if autocast else 1e-6, atol=0)
    error = float((gradient - torchs_gradient).norm() / torchs_gradient.norm())
    assert error < (0.03 if autocast else 1e-5)


@needs_onednn
@pytest.mark.parametrize("autocast", [False, pytest.param(True, marks=needs_bf16)])
def test_a_compiled_block_is_the_same(autocast: bool) -> None:
    """One graph, without inductor (backend aot_eager); the compiled rotation is written otherwise: float32 rounding."""
    torch.compiler.reset()
    torch.manual_seed(0)
    config = DecoderConfig(codebooks=2, rows=12, outputs=10, width=64, layers=1, heads=2, max_positions=80)
    decoder = CodeDecoder(config).train()
    block, x = decoder.blocks[0], torch.randn(2, 70, 64, requires_grad=True)
    compiled = torch.compile(block.__call__, backend="aot_eager", fullgraph=True, dynamic=False)
    wanted = [x, *block.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got, expected = (one(x, decoder.rotary, 0, None, None) for one in (compiled, block))
    upstream = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(one, wanted, upstream) for one in (got, expected))
    for one, other in zip([got, *ours], [expected, *theirs], strict=True):
        assert float((one - other).detach().norm() / other.detach().norm()) < (0.02 if autocast else 1e-5)

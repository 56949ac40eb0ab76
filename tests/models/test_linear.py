"""The oneDNN path against torch's own linear, in values, gradients and the conditions under which it is taken."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from partimento.models import linear as module
from partimento.models.linear import Linear, linear, packed

needs_onednn = pytest.mark.skipif(not module.HAS_ONEDNN, reason="this torch has no oneDNN linear")


@pytest.fixture
def products(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes that went through oneDNN."""
    seen: list[tuple[int, ...]] = []
    real = module.onednn_product

    def spy(x, weight, bias=None):
        seen.append(tuple(x.shape))
        return real(x, weight, bias)

    monkeypatch.setattr(module, "onednn_product", spy)
    return seen


@needs_onednn
@pytest.mark.parametrize("sizes", [((4, 70), 96, 130), ((3, 50), 130, 64), ((256,), 64, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(sizes, bias: bool, products) -> None:
    shape, inputs, outputs = sizes
    torch.manual_seed(0)
    x = torch.randn(*shape, inputs, requires_grad=True)
    w = torch.randn(outputs, inputs, requires_grad=True)
    b = torch.randn(outputs, requires_grad=True) if bias else None
    wanted = [p for p in (x, w, b) if p is not None]
    upstream = torch.randn(*shape, outputs)
    got = linear(x, w, b)
    got_gradients = torch.autograd.grad(got, wanted, upstream)
    assert len(products) == 3, "the forward and both backward products"
    expected = functional.linear(x.double(), w.double(), None if b is None else b.double())
    gradients = torch.autograd.grad(expected, wanted, upstream.double())
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(got_gradients, gradients, strict=True):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-3)


@needs_onednn
def test_strided_inputs_and_expanded_gradients(products) -> None:
    x = torch.randn(4, 200, 96, requires_grad=True)
    w = torch.randn(130, 96, requires_grad=True)
    got = torch.autograd.grad(linear(x[:, ::2], w).sum(), (x, w))
    expected = torch.autograd.grad(functional.linear(x[:, ::2], w).sum(), (x, w))
    assert len(products) == 3
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@needs_onednn
def test_equal_runs_are_bit_equal() -> None:
    def run() -> list[torch.Tensor]:
        torch.manual_seed(1)
        x, w = torch.randn(512, 256, requires_grad=True), torch.randn(1030, 256, requires_grad=True)
        y = linear(x, w)
        return [y, *torch.autograd.grad(y.square().sum(), (x, w))]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_other_cases_are_torchs_own(products) -> None:
    x, w = torch.randn(512, 256), torch.randn(512, 256)
    assert torch.equal(linear(x[:2, :8], w[:4, :8]), functional.linear(x[:2, :8], w[:4, :8]))
    assert torch.equal(linear(x.double(), w.double()), functional.linear(x.double(), w.double()))
    strided = torch.randn(512, 512)[:, ::2]
    assert torch.equal(linear(x, strided), functional.linear(x, strided))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, w).dtype == torch.bfloat16
    assert products == []


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_compiled_code_takes_the_same_products(bias: bool) -> None:
    """backend aot_eager: what is traced, not what inductor makes of it."""
    torch.compiler.reset()
    torch.manual_seed(0)
    layer = Linear(130, 260, bias=bias)
    x = torch.randn(2, 64, 130, requires_grad=True)
    wanted = [x, *layer.parameters()]
    got = torch.compile(layer.__call__, backend="aot_eager", fullgraph=True, dynamic=False)(x)
    expected = layer(x)
    assert torch.equal(got, expected)
    upstream = torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad(got, wanted, upstream), torch.autograd.grad(expected, wanted, upstream), strict=True
    ):
        assert torch.equal(ours, theirs)


@needs_onednn
def test_the_operator_of_compiled_code_keeps_its_contract() -> None:
    weight = torch.randn(24, 16)
    for given in ((torch.randn(2, 5, 16), weight, torch.randn(24)), (torch.randn(2, 5, 16), weight, None)):
        torch.library.opcheck(module._compiled_product, given)
    torch.library.opcheck(module._compiled_product, (torch.randn(16, 5).t(), torch.randn(16, 24).t(), None))


@needs_onednn
def test_packed_weights_are_held_inside_only(products) -> None:
    torch.manual_seed(0)
    layer = Linear(256, 1100)
    for rows in (1, 8, 300):
        x = torch.randn(rows, 1, 256)
        expected = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        with torch.inference_mode(), packed(layer, 8):
            torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-4)
    assert len(products) == 3
    assert layer.packed_weight is None and set(layer.state_dict()) == {"weight", "bias"}
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(layer(torch.randn(8, 256)), layer.bias.expand(8, -1)), "no stale weights"

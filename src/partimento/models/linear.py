"""Linear layers whose float32 matrix products on a CPU run in oneDNN.

torch sends float32 products on x86 to MKL, which on AMD processors runs at a quarter of the speed of oneDNN (one Zen 4
core: 69 against 250 GFLOP/s for 1024 x 256 x 1024; 15 against 2.5 ms for the 8 rows of a decoding step times 28 MB of
weights), and the compiler's code for training does the same. The results are equal to the rounding of float32. All else
(other types, autocast, other devices, small products, a torch without the operator) is torch's own `linear`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Multiply-adds below which the fixed cost of a oneDNN call (about 8 microseconds) is more than it saves.
_SMALL = 2**19
_SMALL_PACKED = 2**18

# The operator that torch's own compiler emits for a linear layer on a CPU.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """nn.Linear through `linear`; inside `packed` with weights laid out for decoding."""

    packed_weight: Tensor | None = None
    narrow: tuple[Tensor, Tensor | None] | None = None
    """Inside `quantized.narrowed`: the weight in fewer bits, and the factor of each output."""
    parts: tuple[int, ...] | None = None
    """Rows of each matrix where several are fused into this one: what treats matrices as such must not mix them."""

    def forward(self, x: Tensor) -> Tensor:
        if self.narrow is not None:
            return narrow_product(x, *self.narrow, self.bias)
        if self.packed_weight is not None and x.numel() * self.out_features >= _SMALL_PACKED:
            return onednn_product(x, self.packed_weight, self.bias)
        return linear(x, self.weight, self.bias)

    def matrix(self) -> Tensor:
        """[out, in]: what forward multiplies by, for who multiplies by itself."""
        return self.weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, as functional.linear."""
    if (
        x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and x.numel() * weight.shape[0] >= _SMALL
        and HAS_ONEDNN
        and weight.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    ):
        if torch.is_grad_enabled():
            return _OneDNNLinear.apply(x, weight, bias)
        return onednn_product(x, weight, bias)
    return functional.linear(x, weight, bias)


def narrow_product(x: Tensor, weight_OI: Tensor, scale_O: Tensor | None, bias: Tensor | None) -> Tensor:
    """x @ (weight * scale).T + bias in the type of x. Compiled, the weight is widened as it is read."""
    y = linear(x, weight_OI.to(x.dtype))
    y = y if scale_O is None else y * scale_O.to(x.dtype)
    return y if bias is None else y + bias


@contextmanager
def packed(module: nn.Module, rows: int) -> Iterator[None]:
    """Holds a second copy of all float32 CPU weights in the layout that is fastest for `rows` rows at a time.

    For inference only: inside, the weights must not change, and no gradient reaches them.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Linear)]
    try:
        for layer in layers:
            weight = layer.weight
            if HAS_ONEDNN and weight.is_cpu and weight.dtype == torch.float32:
                with torch.no_grad():
                    layer.packed_weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("packed_weight", None)  # or compiled code, which asks for it, is compiled anew


def product(a_NI: Tensor, b_OI: Tensor) -> Tensor:
    """a @ b.T of two matrices, by the fastest way there is for their type and device. Not differentiable."""
    if a_NI.dtype == torch.float32 and a_NI.is_cpu and len(a_NI) * b_OI.numel() >= _SMALL and HAS_ONEDNN:
        return onednn_product(a_NI, b_OI, None)
    return a_NI @ b_OI.t()


def weight_product(gradient_NO: Tensor, x_NI: Tensor) -> Tensor:
    """gradient.T @ x [O, I], the gradient of the weight of a linear layer. Not differentiable."""
    if x_NI.dtype == torch.float32 and x_NI.is_cpu and gradient_NO.shape[1] * x_NI.numel() >= _SMALL and HAS_ONEDNN:
        return _weight_gradient(gradient_NO, x_NI)
    return gradient_NO.t() @ x_NI


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias on a CPU. Not differentiable."""
    if torch.compiler.is_compiling():
        return _compiled_product(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise.default(x.contiguous(), weight, bias, "none", [], "")


# Compiled code calls an operator of ours as it stands, whatever a compiler may think of oneDNN's.
@torch.library.custom_op("partimento::onednn_product", mutates_args=())
def _compiled_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x.contiguous(), weight, bias, "none", [], "")


@_compiled_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The input is wanted for the gradient of the weight alone: beside a frozen one it is not kept.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return onednn_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        # Contiguous, or the operator may fall back to its reference loops, a hundred times slower.
        gradient_NO = upstream[0].reshape(-1, weight.shape[0]).contiguous()
        return (
            onednn_product(gradient_NO, weight.t(), None).view(ctx.shape) if needs_x else None,
            _weight_gradient(gradient_NO, x.reshape(-1, weight.shape[1]).contiguous()) if needs_weight else None,
            gradient_NO.sum(0) if needs_bias else None,
        )


def _weight_gradient(gradient_NO: Tensor, x_NI: Tensor) -> Tensor:
    """gradient.T @ x. The first factor is copied when it is transposed, so the narrower of the two is put there."""
    if gradient_NO.shape[1] > x_NI.shape[1]:
        return onednn_product(x_NI.t(), gradient_NO.t(), None).t().contiguous()
    return onednn_product(gradient_NO.t(), x_NI.t(), None)

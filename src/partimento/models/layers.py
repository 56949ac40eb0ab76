"""The small parts of a transformer block: norms, feedforward, and the three kinds of positions.

Shapes: B batch, S grid steps, D model width, F feedforward width, H heads, E head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.linear import Linear


class LayerNorm(nn.Module):
    """Layer norm with gain and bias, computed in float32 whatever the input."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        gain, bias = self.weight.float(), self.bias.float()
        return functional.layer_norm(x.float(), gain.shape, gain, bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * gain (Zhang and Sennrich 2019), computed in float32 whatever the input."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight.float()
        return functional.rms_norm(x.float(), gain.shape, gain, self.eps).to(x.dtype)


def make_norm(kind: str, width: int, eps: float) -> LayerNorm | RMSNorm:
    """`kind` is "layer" or "rms"."""
    return LayerNorm(width, eps) if kind == "layer" else RMSNorm(width, eps)


class FeedForward(nn.Module):
    """GELU (exact, as in MusicGen), or SwiGLU: silu(gate) * up, both from one matrix (gate first, as in Dia)."""

    def __init__(self, width: int, feedforward: int, activation: str, bias: bool) -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        self.up = Linear(width, feedforward * (2 if self.gated else 1), bias=bias)
        self.up.parts = (feedforward, feedforward) if self.gated else None
        self.down = Linear(feedforward, width, bias=bias)

    def forward(self, x_BSD: Tensor) -> Tensor:
        hidden = self.up(x_BSD)
        if self.gated:
            gate, up = hidden.chunk(2, dim=-1)
            return self.down(functional.silu(gate) * up)
        return self.down(functional.gelu(hidden))


def sinusoidal_table(positions: int, width: int) -> Tensor:
    """[positions, width] float32: the cosines of all frequencies, then their sines.

    MusicGen's table (that of tensor2tensor, not of "Attention Is All You Need"): frequency i of half = width // 2 is
    10000 ** (-i / (half - 1)); an odd width ends in a zero column.
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(positions).float()[:, None] * frequency[None, :]
    table = torch.cat([angle.cos(), angle.sin()], dim=1)
    return functional.pad(table, (0, width % 2))


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021) with the halves of a head as pairs.

    At position p the pair (x_i, x_{i + E/2}) turns by the angle p * theta**(-2i/E). Dia, Llama and transformers pair in
    this way. The rotation is computed in float32.
    """

    cosine_PE: Tensor
    sine_PE: Tensor

    def __init__(self, positions: int, head_width: int, theta: float) -> None:
        super().__init__()
        frequency = theta ** (-torch.arange(0, head_width, 2).double() / head_width)
        angle = torch.arange(positions).double()[:, None] * frequency[None, :]
        self.register_buffer("cosine_PE", torch.cat([angle.cos(), angle.cos()], dim=1).float(), persistent=False)
        # Signed, so that the rotation is x * cos + swap_halves(x) * sin.
        self.register_buffer("sine_PE", torch.cat([-angle.sin(), angle.sin()], dim=1).float(), persistent=False)

    def forward(self, x_BSHE: Tensor, start: int | Tensor) -> Tensor:
        rows, half = rows_from(start, x_BSHE.shape[1]), x_BSHE.shape[3] // 2
        cosine, sine = self.cosine_PE[rows, None], self.sine_PE[rows, None]
        if not torch.compiler.is_compiling():  # the fewest kernels
            return torch.addcmul(x_BSHE * cosine, x_BSHE.roll(half, -1), sine).to(x_BSHE.dtype)
        # For a roll the compiler's C++ makes an index of each element: three times as slow, forward and backward.
        cosine, sine = cosine[..., half:], sine[..., half:]
        first, second = x_BSHE.unflatten(-1, (2, half)).unbind(-2)
        turned = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-2)
        return turned.flatten(-2).to(x_BSHE.dtype)


class AddedPositions(nn.Module):
    """Positions that are added to the input embedding: sinusoidal (a constant) or learned."""

    def __init__(self, kind: str, positions: int, width: int) -> None:
        super().__init__()
        if kind == "learned":
            self.table_PD = nn.Parameter(torch.empty(positions, width))
        else:
            self.register_buffer("table_PD", sinusoidal_table(positions, width), persistent=False)

    def forward(self, x_BSD: Tensor, start: int | Tensor) -> Tensor:
        return x_BSD + self.table_PD[rows_from(start, x_BSD.shape[1])]


def sum_of_rows(table: Tensor, ids_NK: Tensor) -> Tensor:
    """[N, D]: for every n the sum of K rows of the table, in one kernel where there is one (XLA has none)."""
    if ids_NK.device.type in ("xla", "tpu"):
        return functional.embedding(ids_NK, table).sum(dim=1)
    return functional.embedding_bag(ids_NK, table, mode="sum")


def rows_from(start: int | Tensor, steps: int) -> slice | Tensor:
    """Rows of a table of positions: from the first of them on, or at the positions [S] that a static cache gives."""
    return slice(start, start + steps) if isinstance(start, int) else start


def check_positions(start: int, steps: int, limit: int) -> None:
    """Raises MODEL004 when rows start..start + steps - 1 do not fit `limit` positions."""
    if start + steps > limit:
        raise PartimentoError(
            "MODEL004",
            f"the model has {limit} positions, but rows {start}..{start + steps - 1} were asked for",
            next="use a shorter window, or train with a larger model.max_positions",
        )

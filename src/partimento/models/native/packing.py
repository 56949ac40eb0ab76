"""Matrices as `step.cpp` reads them: panels of 64 outputs, in float32, bfloat16 or int8.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.models.quantized import Weights, narrow

# As in step.cpp: outputs of a panel, and what a row of values is padded to.
PANEL, LANES = 64, 16


@dataclass(frozen=True)
class Packing:
    """A matrix in panels (`_pack`), the factor of each output if it has one, and its rows and columns."""

    panels: Tensor
    scale_O: Tensor | None
    out: int
    inputs: int


# Of every module the last packings: their mark, and the matrices by name.
_PACKINGS: WeakKeyDictionary[nn.Module, tuple[object, dict[object, Packing]]] = WeakKeyDictionary()


def bits(weight: Tensor) -> tuple[int, int]:
    """Where a tensor lies and what bits it holds: changes when the weight does."""
    weight = weight.detach()
    return weight.data_ptr(), int(torch.hash_tensor(weight).view(torch.int64))


def packing(owner: nn.Module, mark: object, name: object, weights: Weights, make: Callable[[], Tensor]) -> Packing:
    """The matrix that `make` gives, packed.

    Kept for as long as the owner lives and its mark is the same: packing takes as long as tens of steps.
    """
    kept = _PACKINGS.get(owner)
    if kept is None or kept[0] != (mark, weights):
        kept = _PACKINGS[owner] = ((mark, weights), {})
    if name not in kept[1]:
        weight_OI = make().detach()
        kept[1][name] = Packing(*_pack(weight_OI, weights), *weight_OI.shape)
    return kept[1][name]


def _pack(weight_OI: Tensor, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """Panels [O / 64, inputs, 64], of bfloat16 [O / 64, inputs / 2, 64] with two inputs in an int32; and factors."""
    weight_OI, scale_O = narrow(weight_OI, weights)
    out, inputs = weight_OI.shape
    if out % PANEL:  # (not by `pad`, which knows no int8)
        weight_OI = torch.cat([weight_OI, weight_OI.new_zeros(-out % PANEL, inputs)])
    if weights == "bf16":
        weight_OI = pairs(weight_OI)
    elif weights == "int8":  # the same lane of 4 vectors of 16 side by side (`column` in step.cpp)
        weight_OI = weight_OI[torch.arange(len(weight_OI)).view(-1, 4, LANES).transpose(1, 2).flatten()]
    # In two steps, which torch does faster than in one.
    columns_IO = weight_OI.t().contiguous()
    return columns_IO.view(len(columns_IO), -1, PANEL).transpose(0, 1).contiguous(), scale_O


def pairs(values: Tensor) -> Tensor:
    """[..., n] -> int32 [..., ceil(n / 2)]: neighbours in bfloat16, the first in the lower half."""
    return functional.pad(values.bfloat16(), (0, values.shape[-1] % 2)).contiguous().view(torch.int32)

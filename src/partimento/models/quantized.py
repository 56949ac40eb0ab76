"""Weights in fewer bits, for playing: a step reads every weight once, so half the bytes are up to twice the steps.

int8: every row of a matrix (an output channel) is rounded to 255 levels, symmetric about 0, under a scale of its own.
The error of an output is then at most half a level of each weight: |y - y'| <= max|w_row| / 254 * sum|x|. bf16: 8 bits
of significand, so a weight is off by at most 2^-9 of itself. Here weights alone are rounded: activations and sums keep
their type. Embeddings, norms and biases stay as they are. (The step in C++ rounds the other factor of a product, too:
`native.program`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from partimento.models.linear import Linear

Weights = Literal["full", "bf16", "int8"]
"""full: as the module holds them."""


def quantize(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [O, I], scale_O float32): weight ~ int8 * scale. A row of zeros has the scale 1."""
    weight_OI = weight_OI.float()
    most_O = torch.maximum(weight_OI.amax(dim=1), -weight_OI.amin(dim=1))
    scale_O = torch.where(most_O > 0, most_O / 127, 1.0)
    return (weight_OI / scale_O[:, None]).round_().to(torch.int8), scale_O


def narrow(weight_OI: Tensor, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """The weight as it is read, and the factor of each output if it has one."""
    if weights == "int8":
        return quantize(weight_OI)
    return (weight_OI.bfloat16() if weights == "bf16" else weight_OI), None


@contextmanager
def narrowed(module: nn.Module, weights: Weights) -> Iterator[None]:
    """Inside, all linear layers of `module` multiply by narrow copies of their weights; after, by their own again.

    For inference only: no gradient reaches the weights, and changes of them are not seen.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Linear)] if weights != "full" else []
    try:
        for layer in layers:
            with torch.no_grad():
                layer.narrow = narrow(layer.weight, weights)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("narrow", None)  # or compiled code, which asks for it, is compiled anew

"""Low-rank adapters beside frozen weights (LoRA, Hu et al. 2021, arXiv 2106.09685).

W x becomes W x + (alpha / rank) B A x, and only A and B are trained. B begins at zero, so that the first step sees the
model as it was, bit for bit. Where matrices are fused in one (queries, keys and values; gate and up), so is their
adapter: they share A.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.linear import Linear, linear

TARGETS = {
    "attention": r"blocks\.\d+\.attention\.(qkv|out)$",
    "cross": r"blocks\.\d+\.cross\.(query|key_value|out)$",
    "feedforward": r"blocks\.\d+\.feedforward\.(up|down)$",
    "head": r"(^|\.)head$",
}
"""Names of the layers, of text encoder and decoder alike. T5 takes no adapters: it is never trained."""


class Adapted(Linear):
    """A linear layer with an adapter: lora_A [rank, in] and lora_B [out, rank]. Its weight and bias are those of
    `base`, under the same names, so that weights of the model without adapters fit."""

    def __init__(self, base: Linear, rank: int, alpha: float, dropout: float) -> None:
        nn.Module.__init__(self)  # not Linear's, which would draw a weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.fused = base.weight, base.bias, base.parts
        self.scale, self.dropout = alpha / rank, dropout
        self.lora_A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        low = functional.dropout(x, self.dropout) if self.training and self.dropout else x
        return super().forward(x) + linear(linear(low, self.lora_A), self.lora_B) * self.scale

    def matrix(self) -> Tensor:
        """The weight and its adapter as one [out, in]; for who multiplies by itself. Without the dropout."""
        return torch.addmm(self.weight, self.lora_B, self.lora_A, alpha=self.scale)


def adapt(module: nn.Module, rank: int, alpha: float, dropout: float, targets: Sequence[str]) -> list[str]:
    """Puts adapters beside the layers of `targets` (names of TARGETS), draws them from torch's default generator, and
    freezes everything else. Returns the names of the parameters that are left to train.

    Raises MODEL032 where there are adapters already, or a target has no layers.
    """
    if any(isinstance(layer, Adapted) for layer in module.modules()):
        raise _unfit("it has adapters already", "merge them first: partimento weights export RUN --to FOLDER")
    module.requires_grad_(False)
    for target in targets:
        found = [place for place in _linears(module) if re.search(TARGETS[target], place[0])]
        if not found:
            raise _unfit(f"it has no layers of {target}", "take that name out of model.lora_targets")
        for _, owner, name, layer in found:
            if not isinstance(layer, Adapted):  # a target that is named twice
                setattr(owner, name, Adapted(layer, rank, alpha, dropout))
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """Adds every adapter to the weight beside it and takes it away. Does nothing to a model without adapters."""
    for _, owner, name, layer in list(_linears(module)):
        if isinstance(layer, Adapted):
            plain = Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
            plain.weight = nn.Parameter(layer.matrix(), requires_grad=layer.weight.requires_grad)
            plain.bias, plain.parts = layer.bias, layer.fused
            setattr(owner, name, plain.train(layer.training))


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Linear]]:
    """(path, owner, name in the owner, layer) of every linear layer of ours."""
    for path, layer in module.named_modules():
        if isinstance(layer, Linear):
            parent, _, name = path.rpartition(".")
            yield path, module.get_submodule(parent), name, layer


def _unfit(why: str, next: str) -> PartimentoError:
    return PartimentoError("MODEL032", "adapters cannot be put into this model", why=why, next=next)

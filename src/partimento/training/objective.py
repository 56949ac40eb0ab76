"""A model of codes and its loss as one module: what is differentiated, wrapped for several devices, or recorded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from partimento.config import Loss
from partimento.models.conditions import Told
from partimento.models.decoder import CodeDecoder
from partimento.models.dia import TextModel
from partimento.models.loss import code_entropy, code_loss


def decoder_of(module: nn.Module) -> CodeDecoder:
    """The code decoder of a model of either family."""
    if isinstance(module, TextModel):
        return module.decoder
    assert isinstance(module, CodeDecoder)
    return module


def tell(module: CodeDecoder | TextModel, condition: Sequence[Tensor], keep_B: Tensor) -> Told:
    """What items with this condition are told: (tags_BG multi-hot,) or (text_BM, mask_BM), as the model's coder makes
    it. Where keep_B is False it is the null condition: of training, validation and playing alike."""
    if isinstance(module, TextModel):
        text_BM, mask_BM = condition
        return module.told(text_BM, mask_BM, keep_B)
    (tags_BG,) = condition
    return module.told(tags_BG, keep_B)


class CodesObjective(nn.Module):
    """Teacher forcing on a grid: row s predicts row s + 1.

    In training the total has the smoothing, z-loss and weights of `loss`; in eval mode it is the plain cross entropy,
    and the entropy of the output comes with it. Its parameters are the model's.
    """

    def __init__(self, model: CodeDecoder | TextModel, cardinality: int, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.cardinality = cardinality
        self.loss = loss

    def forward(
        self, grid_BSK: Tensor, keep_B: Tensor, weights_K: Tensor | None, *condition: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """grid_BSK of ids (any integer type, S + 1 rows), keep_B False for the null condition, and what `tell` reads.

        Returns the total over the valid targets and sums: tokens (what the total is divided by: valid targets, weighted
        in training), and per codebook ce_K and count_K of the real codes, eos and eos_count, items and null_items.
        """
        grid_BSK = grid_BSK.long()  # small integers travel, the device widens them
        rows_BSK, targets_BSK = grid_BSK[:, :-1], grid_BSK[:, 1:]
        decoder, arguments = decoder_of(self.model), tell(self.model, condition, keep_B).arguments()
        entropy: dict[str, Tensor] = {}
        if self.training:
            found = decoder.loss(
                rows_BSK,
                targets_BSK,
                self.cardinality,
                weights_K=weights_K,
                label_smoothing=self.loss.label_smoothing,
                z_loss=self.loss.z_loss,
                **arguments,
            )
        else:
            logits_BSKV = decoder(rows_BSK, **arguments)
            found = code_loss(logits_BSKV, targets_BSK, self.cardinality)
            entropy_BSK = code_entropy(logits_BSKV.detach(), self.cardinality)
            entropy = {"entropy_K": (entropy_BSK * (targets_BSK < self.cardinality)).sum((0, 1))}
        return found.total, {
            "tokens": found.count,
            "ce_K": found.code_sum_K,
            "count_K": found.code_count_K,
            "eos": found.eos_sum,
            "eos_count": found.eos_count,
            "items": torch.ones_like(found.count) * len(keep_B),
            "null_items": (~keep_B).sum().to(found.count),
            **entropy,
        }

"""A code decoder and its loss as one module: what is differentiated, wrapped for several devices, or recorded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from partimento.config import Loss
from partimento.models.decoder import CodeDecoder
from partimento.models.loss import code_entropy, code_loss


class CodesObjective(nn.Module):
    """Teacher forcing on a grid: row s predicts row s + 1.

    In training the total has the smoothing, z-loss and weights of `loss`; in eval mode it is the plain cross entropy,
    and the entropy of the output comes with it. Its parameters are the decoder's.
    """

    def __init__(self, decoder: CodeDecoder, cardinality: int, loss: Loss) -> None:
        super().__init__()
        self.decoder = decoder
        self.cardinality = cardinality
        self.loss = loss

    def forward(
        self, grid_BSK: Tensor, tags_BG: Tensor, keep_B: Tensor, weights_K: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """grid_BSK of ids (any integer type, S + 1 rows), tags multi-hot, keep_B False for the null condition.

        Returns the total over the valid targets and sums: tokens (what the total is divided by: valid targets, weighted
        in training), and per codebook ce_K and count_K of the real codes, eos and eos_count, items and null_items.
        """
        grid_BSK = grid_BSK.long()  # small integers travel, the device widens them
        rows_BSK, targets_BSK = grid_BSK[:, :-1], grid_BSK[:, 1:]
        condition = self.decoder.condition
        condition_BD = None if condition is None else condition(tags_BG, keep_B)
        entropy: dict[str, Tensor] = {}
        if self.training:
            found = self.decoder.loss(
                rows_BSK,
                targets_BSK,
                self.cardinality,
                condition_BD=condition_BD,
                weights_K=weights_K,
                label_smoothing=self.loss.label_smoothing,
                z_loss=self.loss.z_loss,
            )
        else:
            logits_BSKV = self.decoder(rows_BSK, condition_BD=condition_BD)
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

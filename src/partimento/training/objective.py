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
from partimento.models.mixture import MixtureModel
from partimento.models.text import TextEncoder
from partimento.training.built import Decoder, Model


def decoder_of(module: nn.Module) -> Decoder:
    """The code decoder of a model of any family."""
    if isinstance(module, TextModel | MixtureModel):
        return module.decoder
    assert isinstance(module, CodeDecoder)
    return module


def tell(module: Model, condition: Sequence[Tensor], keep_B: Tensor) -> Told:
    """What items with this condition are told: (tags_BG multi-hot,) or (text_BM, mask_BM), as the model's coder makes
    it. Where keep_B is False it is the null condition: of training, validation and playing alike."""
    if isinstance(module, TextModel | MixtureModel):
        text_BM, mask_BM = condition
        return module.told(text_BM, mask_BM, keep_B)
    (tags_BG,) = condition
    return module.told(tags_BG, keep_B)


def attentions(module: Model, *, both_ways: bool) -> int:
    """Calls of self attention in one pass where gradients are kept. Of a mixture: in every layer, of rows; both ways
    also of words behind rows, and of these rows but for the last layer, of which only keys and values are read."""
    if isinstance(module, MixtureModel):
        layers = module.llama.config.layers
        return 3 * layers - 1 if both_ways else layers
    layers = decoder_of(module).config.layers  # type: ignore[union-attr]
    encoder = module.encoder if isinstance(module, TextModel) else None
    return layers + (encoder.config.layers if isinstance(encoder, TextEncoder) else 0)


class CodesObjective(nn.Module):
    """Teacher forcing on a grid: row s predicts row s + 1.

    In training the total has the smoothing, z-loss and weights of `loss`; in eval mode it is the plain cross entropy,
    and with it come the entropy of the output, and ce_B and count_B, what each item's real codes add up to. Its
    parameters are the model's.

    `both_ways` (a MixtureModel): items may be learned from sound to words too. The two directions run in every pass,
    and each item counts in one of them (in eval mode in both): shapes, and the parameters that have a gradient, depend
    on no draw, and the cost of a step about doubles.
    """

    def __init__(self, model: Model, cardinality: int, loss: Loss, *, both_ways: bool = False) -> None:
        super().__init__()
        self.model = model
        self.cardinality = cardinality
        self.loss = loss
        self.both_ways = both_ways

    def forward(
        self, grid_BSK: Tensor, keep_B: Tensor, weights_K: Tensor | None, *condition: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """grid_BSK of ids (any integer type, S + 1 rows), keep_B False for the null condition, and what `tell` reads;
        then, with `both_ways`, turned_B, True for an item that is learned from sound to words.

        Returns the total over the valid targets and sums: tokens (what the total is divided by: valid targets, weighted
        in training), and per codebook ce_K and count_K of the real codes, eos and eos_count, items and null_items; with
        `both_ways` also caption and caption_count of the ids of the words.
        """
        grid_BSK = grid_BSK.long()  # small integers travel, the device widens them
        rows_BSK, targets_BSK = grid_BSK[:, :-1], grid_BSK[:, 1:]
        decoder, turned_B = decoder_of(self.model), None
        if self.both_ways:
            *condition, turned_B = condition  # type: ignore[assignment]
            if self.training:  # an id that no output has is no target
                targets_BSK = torch.where(turned_B[:, None, None], decoder.config.outputs, targets_BSK)
        arguments = tell(self.model, condition, keep_B).arguments()
        seen: dict[str, Tensor] = {}
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
            seen = {
                "entropy_K": (entropy_BSK * (targets_BSK < self.cardinality)).sum((0, 1)),
                "ce_B": found.code_sum_B,
                "count_B": found.code_count_B,
            }
        total, tokens, words = found.total, found.count, {}
        if turned_B is not None:
            told, count = self._words(rows_BSK, turned_B, *condition)
            total, tokens = total + told, tokens + count
            words = {"caption": told.detach(), "caption_count": count}
        return total, {
            "tokens": tokens,
            "ce_K": found.code_sum_K,
            "count_K": found.code_count_K,
            "eos": found.eos_sum,
            "eos_count": found.eos_count,
            "items": torch.ones_like(found.count) * len(keep_B),
            "null_items": (~keep_B).sum().to(found.count),
            **seen,
            **words,
        }

    def _words(self, rows_BSK: Tensor, turned_B: Tensor, text_BM: Tensor, mask_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the cross entropy of the words of turned items, told from their rows, and how many ids that were."""
        assert isinstance(self.model, MixtureModel)
        total, count = self.model.caption_loss(rows_BSK, text_BM, mask_BM & turned_B[:, None])
        return total, count.to(total)

"""Mixture of transformers: a frozen Llama reads a text, and rows of audio behind it pass experts of their own.

A sequence is [text][rows of a grid]. Text passes the stock Llama alone, and what is left of it is a Prefix: its keys
and values. The rows are a MixtureDecoder's. Captions are learned the other way round: rows first, then text.
Shapes: B batch, S grid rows, K codebooks, M text steps, D width, V ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.conditions import Prefix, Told
from partimento.models.experts import invalid
from partimento.models.layers import check_positions
from partimento.models.llama import Llama
from partimento.models.mixture_config import MixtureConfig, TrainBackbone
from partimento.models.mixture_decoder import MixtureDecoder, behind

__all__ = ["MixtureConfig", "MixtureDecoder", "MixtureModel"]


class MixtureModel(nn.Module):
    """The decoder and what it is told. Of the Llama is trained: nothing; `head`, the whole output matrix of the text,
    which is untied from the embedding for it (it learns where captions are learned, `caption_loss`); or `all`.
    What is not trained requires no gradient. Raises MODEL043."""

    def __init__(self, config: MixtureConfig, train_backbone: TrainBackbone = "none") -> None:
        super().__init__()
        if train_backbone not in get_args(TrainBackbone):
            raise invalid(f"train_backbone {train_backbone!r} is not one of {', '.join(get_args(TrainBackbone))}")
        if train_backbone == "head":
            config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, tied=False))
        self.train_backbone = train_backbone
        self.decoder = MixtureDecoder(config)
        self.llama.requires_grad_(train_backbone == "all")
        self.llama.head.requires_grad_(train_backbone != "none")

    @property
    def llama(self) -> Llama:
        return self.decoder.llama

    def told(self, text_BM: Tensor, mask_BM: Tensor, keep_B: Tensor) -> Told:
        """The prefix of the texts, or where keep_B is False of BOS alone: the null condition. Texts begin at step 0,
        and pads follow them.

        The only way from text to a prefix: of training, validation and sampling. Without a gradient where nothing that
        text passes is trained. Raises MODEL004 (too long), MODEL044 (checked on a CPU: an id outside the vocabulary, an
        empty text, pads before text).
        """
        return Told(prefix=self._read(text_BM, mask_BM, keep_B))

    def caption_loss(self, grid_BSK: Tensor, text_BM: Tensor, mask_BM: Tensor) -> tuple[Tensor, Tensor]:
        """The other direction, audio to text: (sum of the cross entropy in nats over the ids of the texts, their
        number), by the Llama's own head.

        The sequence is BOS, the rows (as in the null condition), then the text: its BOS, and the words. Each id of it
        predicts the next, and the last one BOS, which ends it. Rows that are all PAD, and pads of a text, are neither
        seen nor counted, nor is an item with an empty mask. Raises as `told` and the decoder do.
        """
        nothing_B = torch.zeros(len(text_BM), dtype=torch.bool, device=text_BM.device)
        prefix = self._read(text_BM[:, :1], mask_BM[:, :1], nothing_B)
        audio_L = zip(*self.decoder.listen(grid_BSK, prefix), strict=True)
        heard_BS = (grid_BSK != self.decoder.config.pad_row).any(-1)
        steps = text_BM.shape[1]
        mask_B1MP = behind(torch.cat([prefix.mask_BM, heard_BS], dim=1), steps)
        check_positions(1 + grid_BSK.shape[1], steps, self.llama.config.max_positions)
        first_B1 = (prefix.count_B + heard_BS.sum(1))[:, None]
        turn = self.llama.turn(first_B1 + torch.arange(steps, device=text_BM.device))
        x_BMD = self.llama.embedding(text_BM)
        for layer, (block, audio) in enumerate(zip(self.llama.blocks, audio_L, strict=True)):
            text = prefix.keys_L[layer], prefix.values_L[layer]
            before = [torch.cat([t.to(a.dtype), a], dim=2) for t, a in zip(text, audio, strict=True)]
            x_BMD, _, _ = block(x_BMD, turn, (before[0], before[1]), mask_B1MP)
        follows_BM = functional.pad(mask_BM[:, 1:], (0, 1), value=False)
        next_BM = functional.pad(text_BM[:, 1:], (0, 1), value=self.llama.config.bos)
        next_BM = torch.where(follows_BM, next_BM, self.llama.config.bos).masked_fill(~mask_BM, -100)
        logits_BMV = self.llama.logits(x_BMD).float()
        return functional.cross_entropy(logits_BMV.flatten(0, 1), next_BM.flatten(), reduction="sum"), mask_BM.sum()

    def _read(self, text_BM: Tensor, mask_BM: Tensor, keep_B: Tensor) -> Prefix:
        bos, keep_B1 = self.llama.config.bos, keep_B[:, None]
        first_M = torch.arange(text_BM.shape[1], device=text_BM.device) == 0
        text_BM = torch.where(keep_B1, text_BM, bos)
        mask_BM = torch.where(keep_B1, mask_BM.bool(), first_M)
        self._check(text_BM, mask_BM)
        llama = self.llama
        passed = (*llama.embedding.parameters(), *llama.blocks.parameters())
        trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in passed)
        with torch.set_grad_enabled(trained):
            keys_L, values_L = llama.read(text_BM)
        return Prefix(keys_L, values_L, mask_BM, mask_BM.sum(1))

    def _check(self, text_BM: Tensor, mask_BM: Tensor) -> None:
        check_positions(0, text_BM.shape[1], self.llama.config.max_positions)
        if not text_BM.is_cpu or torch.compiler.is_compiling():
            return
        lowest, highest = text_BM.aminmax()
        if lowest < 0 or highest >= self.llama.config.vocabulary:
            raise _no_text(
                f"ids {int(lowest)}..{int(highest)}, and the backbone knows 0..{self.llama.config.vocabulary - 1}"
            )
        if not mask_BM[:, 0].all() or (mask_BM[:, 1:] & ~mask_BM[:, :-1]).any():
            raise _no_text("an item is empty, or has pads before text")

    def to_json(self) -> dict[str, Any]:
        """The architecture; `from_json` is the inverse, but for the weights."""
        return {"decoder": self.decoder.config.to_json(), "train_backbone": self.train_backbone}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MixtureModel:
        """With weights drawn from torch's default generator (seed it first). Raises MODEL040, MODEL043 for what this
        version does not know, or that is missing."""
        if set(stored) != {"decoder", "train_backbone"}:
            raise invalid("it must have a decoder and train_backbone, and nothing else")
        return cls(MixtureConfig.from_json(stored["decoder"]), stored["train_backbone"])


def _no_text(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL044",
        "the mixture cannot read these texts",
        why=why,
        next="make them with the tokenizer of the backbone, which begins every text with BOS",
    )

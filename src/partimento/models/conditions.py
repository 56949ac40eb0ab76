"""What a model is told besides the codes, and the one null condition.

Training's dropped item and sampling's unconditional branch are the same vector, made by the same function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Null = Literal["empty", "zeros"]


@dataclass(frozen=True)
class Told:
    """What a decoder is told besides the codes, for its forward: any of it, or nothing.

    condition_BD     added to every row (tags)
    memory_BMD       what cross attention reads (encoded text), and its mask_BM, True where there is something
    """

    condition_BD: Tensor | None = None
    memory_BMD: Tensor | None = None
    mask_BM: Tensor | None = None

    def arguments(self) -> dict[str, Any]:
        """The decoder's arguments of the same meaning."""
        return {"condition_BD": self.condition_BD, "memory_BMD": self.memory_BMD, "memory_mask_BM": self.mask_BM}

    def followed_by(self, null: Told) -> Told:
        """One batch of 2 B: these items, then the same items told `null`. A null without a memory reads nothing."""
        condition_BD, memory_BMD, mask_BM = self.condition_BD, self.memory_BMD, self.mask_BM
        if condition_BD is not None and null.condition_BD is not None:
            condition_BD = torch.cat([condition_BD, null.condition_BD])
        if memory_BMD is not None:
            full_BM = memory_BMD.new_ones(memory_BMD.shape[:2], dtype=torch.bool)
            null_BM = full_BM if null.memory_BMD is not None else ~full_BM
            null_BMD = memory_BMD if null.memory_BMD is None else null.memory_BMD
            mask_BM = torch.cat(
                [full_BM if mask_BM is None else mask_BM, null_BM if null.mask_BM is None else null.mask_BM]
            )
            memory_BMD = torch.cat([memory_BMD, null_BMD])
        return Told(condition_BD, memory_BMD, mask_BM)


NOTHING = Told()


class TagCondition(nn.Module):
    """Tags as one vector: the sum of their embeddings over sqrt(number of tags), or the learned null vector.

    An item that is dropped, and an item of which no tag is known, get the null vector: in both cases the model is told
    nothing. The square root keeps the scale when the number of tags varies.
    """

    def __init__(self, tags: int, width: int) -> None:
        super().__init__()
        self.embedding_GD = nn.Parameter(torch.empty(tags, width))
        self.null_D = nn.Parameter(torch.empty(width))

    def forward(self, tags_BG: Tensor, keep_B: Tensor) -> Tensor:
        """tags_BG multi-hot, keep_B bool (False = dropped) -> condition_BD."""
        count_B1 = tags_BG.sum(dim=1, keepdim=True)
        told_BD = (tags_BG.to(self.embedding_GD.dtype) @ self.embedding_GD) / count_B1.clamp(min=1).sqrt()
        known_B1 = keep_B[:, None] & (count_B1 > 0)
        return torch.where(known_B1, told_BD, self.null(len(tags_BG)).to(told_BD.dtype))

    def null(self, batch: int) -> Tensor:
        """[batch, D]: the condition of items that are told nothing."""
        return self.null_D.expand(batch, -1)


def null_text(text_BM: Tensor, mask_BM: Tensor, kind: Null) -> tuple[Tensor, Tensor]:
    """What an item is told in place of its text when its condition is dropped; ids and mask of the same shapes.

    empty: there is no text, and cross attention adds nothing. zeros: as many zero bytes as the text has (at every place
    if it has none), which is how Dia plays its unconditional side.
    """
    ids_BM = torch.zeros_like(text_BM)
    if kind == "empty":
        return ids_BM, torch.zeros_like(mask_BM)
    return ids_BM, mask_BM | ~mask_BM.any(dim=1, keepdim=True)

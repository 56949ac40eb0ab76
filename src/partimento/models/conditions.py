"""What a model is told besides the codes, and the one null condition.

Training's dropped item and sampling's unconditional branch are the same vector, made by the same function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Null = Literal["empty", "zeros"]


@dataclass(frozen=True, eq=False)
class Prefix:
    """A text that a mixture has read: what stands in front of the rows (B items, M steps, L layers).

    keys_L, values_L  [B, G, M, E] of every layer, turned by their positions
    mask_BM           True where there is text; it begins at 0, and pads follow it
    count_B           int64, its steps: row s of item b stands at position count_B[b] + s
    """

    keys_L: list[Tensor]
    values_L: list[Tensor]
    mask_BM: Tensor
    count_B: Tensor

    def followed_by(self, other: Prefix) -> Prefix:
        """The items of both. A shorter text is padded at its end."""
        steps = max(self.mask_BM.shape[1], other.mask_BM.shape[1])

        def both(ours: Tensor, theirs: Tensor, axis: int) -> Tensor:
            behind = (0, 0) * (ours.ndim - 1 - axis)
            return torch.cat([functional.pad(x, (*behind, 0, steps - x.shape[axis])) for x in (ours, theirs)])

        return Prefix(
            [both(a, b, 2) for a, b in zip(self.keys_L, other.keys_L, strict=True)],
            [both(a, b, 2) for a, b in zip(self.values_L, other.values_L, strict=True)],
            both(self.mask_BM, other.mask_BM, 1),
            torch.cat([self.count_B, other.count_B]),
        )


@dataclass(frozen=True)
class Told:
    """What a decoder is told besides the codes, for its forward: any of it, or nothing.

    condition_BD     added to every row (tags)
    memory_BMD       what cross attention reads (encoded text), and its mask_BM, True where there is something
    prefix           what stands in front of the rows of a mixture, which is told nothing else
    """

    condition_BD: Tensor | None = None
    memory_BMD: Tensor | None = None
    mask_BM: Tensor | None = None
    prefix: Prefix | None = None

    def arguments(self) -> dict[str, Any]:
        """The decoder's arguments of the same meaning."""
        if self.prefix is not None:
            return {"prefix": self.prefix}
        return {"condition_BD": self.condition_BD, "memory_BMD": self.memory_BMD, "memory_mask_BM": self.mask_BM}

    def followed_by(self, null: Told) -> Told:
        """One batch of 2 B: these items, then the same items told `null`. A null without a memory reads nothing; one
        without a prefix there is not (a Llama needs its first id)."""
        if self.prefix is not None:
            assert null.prefix is not None
            return Told(prefix=self.prefix.followed_by(null.prefix))
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

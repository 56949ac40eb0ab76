"""What a model is told besides the codes, and the one null condition.

Training's dropped item and sampling's unconditional branch are the same vector, made by the same function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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

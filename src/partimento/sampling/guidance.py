"""Classifier-free guidance in one convention: u + s (c - u), with c the logits under the condition and u under null.

So s = 0 is unconditional, s = 1 the condition alone (nothing is computed twice), s > 1 more than the condition asks.
MusicGen counts like this; Dia's c + s (c - u) is our s + 1.
Shapes: B items, M memory steps, D width (of the model, of the memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from partimento.errors import PartimentoError


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


def guide(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    """null + scale * (conditional - null)."""
    return torch.lerp(null, conditional, scale)


def check_guidance(scale: float, told: Told, null: Told) -> None:
    """Raises SAMPLE002 when guidance is asked of what has no condition or no null condition."""
    nothing = told.condition_BD is None and told.memory_BMD is None
    if scale != 1 and (nothing or (told.condition_BD is not None and null.condition_BD is None)):
        missing = "condition" if nothing else "null condition"
        raise PartimentoError(
            "SAMPLE002",
            f"guidance {scale} needs a condition and a null condition, and there is no {missing}",
            next="use guidance 1, or give tags to a model that was trained with tags",
        )

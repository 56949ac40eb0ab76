"""Classifier-free guidance in one convention: u + s (c - u), with c the logits under the condition and u under null.

So s = 0 is unconditional, s = 1 the condition alone (nothing is computed twice), s > 1 more than the condition asks.
MusicGen counts like this; Dia's c + s (c - u) is our s + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from partimento.errors import PartimentoError


def guide(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    """null + scale * (conditional - null)."""
    return torch.lerp(null, conditional, scale)


def check_guidance(scale: float, conditional: Tensor | None, null: Tensor | None) -> None:
    """Raises SAMPLE002 when guidance is asked of what has no condition or no null condition."""
    if scale != 1 and (conditional is None or null is None):
        missing = "condition" if conditional is None else "null condition"
        raise PartimentoError(
            "SAMPLE002",
            f"guidance {scale} needs a condition and a null condition, and there is no {missing}",
            next="use guidance 1, or give tags to a model that was trained with tags",
        )

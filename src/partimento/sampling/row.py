"""From logits to one written row: the same for every way of making steps."""

from __future__ import annotations

from torch import Tensor

from partimento.models.loss import code_entropy
from partimento.sampling.guidance import Guidance, guide
from partimento.sampling.rules import Rules, draw
from partimento.sampling.sheet import ALL, Sheet


def write_row(
    sheet: Sheet,
    step: int | Tensor,
    logits_BKV: Tensor,
    rules: Rules,
    uniform_BK: Tensor,
    guidance: Guidance,
    books: slice = ALL,
) -> Tensor:
    """Guides, bans, draws and writes; the entropies_BK of what was drawn from. No host sync; changes the logits.

    Unless the guidance is neutral the logits are those of the items, then of the same items under null. Logits and
    entropies are those of `books` only, and nothing may be free in others.
    """
    logits_BKV = logits_BKV.contiguous()  # books that share a vocabulary come as one memory
    sheet.forbid(logits_BKV, books)
    entropy_of_BKV = logits_BKV
    if not guidance.neutral:
        conditional_BKV, null_BKV = logits_BKV.chunk(2)
        logits_BKV, entropy_of_BKV = guide(conditional_BKV, null_BKV, guidance, sheet.share_S[step])
    entropy_BK = code_entropy(entropy_of_BKV, sheet.cardinality)
    sheet.ban(logits_BKV, step, books)
    sheet.write(step, draw(logits_BKV, rules, uniform_BK[:, books]), books)
    return entropy_BK

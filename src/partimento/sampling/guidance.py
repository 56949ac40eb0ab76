"""Classifier-free guidance in one convention: u + s (c - u), with c the logits under the condition and u under null.

So s = 0 is unconditional, s = 1 the condition alone (nothing is computed twice), s > 1 more than the condition asks.
MusicGen counts like this; Dia's c + s (c - u) is our s + 1.
Shapes: B items, K codebooks, V outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.conditions import Told
from partimento.sampling.rules import kth_largest


@dataclass(frozen=True)
class Guidance:
    """How strongly, where, and by which rule an item is guided.

    scale       s in u + s (c - u), 0 or more
    rule        mix: codes are drawn from the guided logits. filter: the guided logits choose the `top_k` candidates
                and the conditional ones are drawn from (Dia since June 2025)
    top_k       candidates of the filter, for each codebook, EOS among them: at least 2, so that one is left where EOS
                may not stand
    fade        constant: s everywhere. linear: from s at the first frame to 1 at the last
    begin, end  seconds are no business of this floor: shares of the frames asked for (0 is the first, 1 the last,
                prompts counted) between which s holds; outside of them it is 1 (Kynkaanniemi et al. 2024)

    A place is where the first codebook stands: all codebooks of a grid row are guided alike. A schedule depends on the
    frames asked for, so with one a shorter result is not the beginning of a longer one.
    Raises SAMPLE010 out of range.
    """

    scale: float = 1.0
    rule: Literal["mix", "filter"] = "mix"
    top_k: int = 45
    fade: Literal["constant", "linear"] = "constant"
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for fits, text in (
            (math.isfinite(self.scale) and self.scale >= 0, f"guidance {self.scale}"),
            (self.rule in ("mix", "filter"), f"rule {self.rule!r}"),
            (self.top_k >= 2, f"top_k {self.top_k} of the filter"),
            (self.fade in ("constant", "linear"), f"fade {self.fade!r}"),
            (0 <= self.begin < self.end <= 1, f"the interval {self.begin}..{self.end}"),
        ):
            if not fits:
                raise PartimentoError(
                    "SAMPLE010",
                    f"{text} is out of range",
                    next="guidance >= 0 (1: the condition alone), top_k >= 2, 0 <= begin < end <= 1",
                )

    @property
    def neutral(self) -> bool:
        """Whether the condition alone is asked for, and the null branch need not be computed."""
        return self.scale == 1

    @property
    def scheduled(self) -> bool:
        return self.fade != "constant" or self.begin > 0 or self.end < 1

    def strength(self, share: Tensor) -> Tensor:
        """s at a place of the playing, a share from 0 (first frame) to 1 (last frame)."""
        s = 1 + (self.scale - 1) * (1 - share) if self.fade == "linear" else torch.full_like(share, self.scale)
        return torch.where((share >= self.begin) & (share <= self.end), s, 1.0)


UNGUIDED = Guidance()


def from_extrapolation(scale: float) -> float:
    """Our s for a strength in Dia's convention, c + scale (c - u)."""
    return scale + 1


def guide(conditional_BKV: Tensor, null_BKV: Tensor, guidance: Guidance, share: Tensor) -> tuple[Tensor, Tensor]:
    """(logits to draw from, the distribution that the entropy is of) at a place of the playing. No host sync.

    They differ under the filter, where what is drawn from is -inf but for the candidates.
    """
    if guidance.scheduled:
        strength = guidance.strength(share)
        mixed_BKV = torch.lerp(null_BKV, conditional_BKV, strength)
    else:
        mixed_BKV = torch.lerp(null_BKV, conditional_BKV, guidance.scale)
    if guidance.rule == "mix":
        return mixed_BKV, mixed_BKV
    least_BK1 = kth_largest(mixed_BKV, guidance.top_k)
    other_BKV = mixed_BKV < least_BK1
    if guidance.scheduled:
        other_BKV = other_BKV & (strength != 1)  # not guided there, so not filtered
    return conditional_BKV.masked_fill(other_BKV, -torch.inf), conditional_BKV


def check_guidance(guidance: Guidance, told: Told, null: Told) -> None:
    """Raises SAMPLE002 when guidance is asked of what has no condition or no null condition."""
    nothing = told.condition_BD is None and told.memory_BMD is None and told.prefix is None
    needed = [(told.condition_BD, null.condition_BD), (told.prefix, null.prefix)]
    if not guidance.neutral and (nothing or any(a is not None and b is None for a, b in needed)):
        missing = "condition" if nothing else "null condition"
        raise PartimentoError(
            "SAMPLE002",
            f"guidance {guidance.scale:g} needs a condition and a null condition, and there is no {missing}",
            next="use guidance 1, or give tags to a model that was trained with tags",
        )

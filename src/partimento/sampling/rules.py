"""How a code is drawn from logits: temperature, top-k, top-p, and noise that belongs to the item.

Order: temperature, then top-k, then top-p on what is left (renormalised), then min-p, then the draw: that of
transformers. Guidance and bans (EOS where it may not stand) come before all of it and are the caller's, so that
temperature 0 obeys them too.
Shapes: B items, K codebooks, V outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from partimento import keyed
from partimento.errors import PartimentoError

# Uniform numbers are drawn for so many steps at a time; part of the key, so changing it changes what a seed plays.
_BLOCK = 64
COLDEST = 1e-30
"""What is far colder is 0 in float32, and a division by it NaN, from which an id would be drawn that is no code."""


@dataclass(frozen=True)
class Rules:
    """temperature 0 takes the most likely code; top_k 0, top_p 1 and min_p 0 are off.

    top_k keeps the k most likely codes; top_p keeps the most likely codes up to and with the first one at which their
    sum reaches p (Holtzman et al. 2020); both also keep what is exactly as likely as the last one kept. min_p keeps the
    codes that are at least so many times as likely as the likeliest (Nguyen et al. 2024).
    Raises SAMPLE001 out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for fits, text in (
            (self.temperature == 0 or COLDEST <= self.temperature < math.inf, f"temperature {self.temperature}"),
            (self.top_k >= 0, f"top_k {self.top_k}"),
            (0 < self.top_p <= 1, f"top_p {self.top_p}"),
            (0 <= self.min_p <= 1, f"min_p {self.min_p}"),
        ):
            if not fits:
                raise PartimentoError(
                    "SAMPLE001",
                    f"{text} is out of range",
                    next=f"temperature 0 (most likely code) or at least {COLDEST:g}, top_k >= 0 (0: off), "
                    "0 < top_p <= 1 (1: off), 0 <= min_p <= 1 (0: off)",
                )


def probabilities(logits: Tensor, rules: Rules) -> Tensor:
    """The distribution that is drawn from, [..., V], for a temperature above 0."""
    if rules.temperature != 1:
        # Against the largest first: a small temperature must not overflow.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / rules.temperature
    p = logits.softmax(dim=-1)
    least = _least(p, rules)
    if least is None:
        return p
    p = p * (p >= least)
    return p / p.sum(dim=-1, keepdim=True)


def _least(p: Tensor, rules: Rules) -> Tensor | None:
    """The probability [..., 1] of the least likely code that all rules keep; None if they are off."""
    least = p.amax(dim=-1, keepdim=True) * rules.min_p if rules.min_p else None
    if rules.top_k == 0 and rules.top_p == 1:
        return least
    if rules.top_p == 1:
        last = kth_largest(p, rules.top_k)
    else:
        ordered = _descending(p)
        if rules.top_k:
            ordered = ordered[..., : rules.top_k]
        before = ordered.cumsum(dim=-1) - ordered
        kept = (before < rules.top_p * ordered.sum(dim=-1, keepdim=True)).sum(dim=-1, keepdim=True)
        last = ordered.gather(-1, (kept - 1).clamp(min=0))
    return last if least is None else torch.maximum(least, last)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """[..., 1]: the k-th of the last dimension, the last of all if there are fewer. On a CPU as `_descending`."""
    k = min(k, values.shape[-1])
    if values.is_cpu and not torch.compiler.is_compiling():
        # Not numpy's partition, which is slow where many values are equal: after a filter most are 0.
        place = values.shape[-1] - k
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)[..., place : place + 1].copy())
    return values.topk(k, dim=-1).values[..., -1:]


def _descending(values: Tensor) -> Tensor:
    """The last dimension from large to small. On a CPU numpy's vectorised sort is ten times faster than torch's."""
    if values.is_cpu and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)[..., ::-1].copy())
    return values.sort(dim=-1, descending=True).values


def draw(logits_BKV: Tensor, rules: Rules, uniform_BK: Tensor) -> Tensor:
    """ids_BK: the argmax at temperature 0, else the inverse of the distribution function at `uniform_BK` in [0, 1).

    One number decides a code, so two models that agree draw the same code from the same noise. No host sync: logits
    that are no numbers, or of which none is possible, give the id V, which no code has and `Sheet.codes` refuses.
    """
    if rules.temperature == 0:
        most_BK, id_BK = logits_BKV.max(dim=-1)
        return id_BK.masked_fill(~most_BK.isfinite(), logits_BKV.shape[-1])
    up_to_BKV = probabilities(logits_BKV, rules).cumsum(dim=-1)
    at_BK1 = uniform_BK[..., None] * up_to_BKV[..., -1:]
    # The first id whose sum exceeds the number, so that an id of probability 0 is never drawn. (XLA can count, and not
    # search.)
    return (~(up_to_BKV > at_BK1)).sum(dim=-1)


class Noise:
    """Uniform numbers in [0, 1) for (seed, grid step, codebook): those of an item do not depend on its batch."""

    def __init__(self, seeds: Sequence[int], codebooks: int, device: torch.device) -> None:
        self.seeds, self.codebooks, self.device = tuple(seeds), codebooks, device
        self._number = -1
        self._block_NBK = torch.empty(0)

    def at(self, step: int) -> Tensor:
        """[B, K] float32."""
        number, row = divmod(step, _BLOCK)
        if number != self._number:
            shape = (_BLOCK, self.codebooks)
            items = [
                torch.rand(shape, generator=keyed.torch_generator("sampling", seed, number)) for seed in self.seeds
            ]
            # Below 1 by two units in the last place: times a sum, rounding must not give the sum itself.
            self._block_NBK = torch.stack(items, dim=1).clamp_(max=1 - 2**-23).to(self.device)
            self._number = number
        return self._block_NBK[row]

    def table(self, steps: int) -> Tensor:
        """[steps, B, K]: `at` every step below `steps`, for who may not ask the host at each."""
        return torch.stack([self.at(step) for step in range(steps)])

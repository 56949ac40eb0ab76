"""How a code is drawn from logits: temperature, top-k, top-p, and noise that belongs to the item.

Order: temperature, then top-k, then top-p on what is left (renormalised), then the draw. Bans (EOS where it may not
stand) come before all of it and are the caller's.
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


@dataclass(frozen=True)
class Rules:
    """temperature 0 takes the most likely code; top_k 0 and top_p 1 are off.

    top_k keeps the k most likely codes; top_p keeps the most likely codes up to and with the first one at which their
    sum reaches p (Holtzman et al. 2020); both also keep what is exactly as likely as the last one kept.
    Raises SAMPLE001 out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for fits, text in (
            (math.isfinite(self.temperature) and self.temperature >= 0, f"temperature {self.temperature}"),
            (self.top_k >= 0, f"top_k {self.top_k}"),
            (0 < self.top_p <= 1, f"top_p {self.top_p}"),
        ):
            if not fits:
                raise PartimentoError(
                    "SAMPLE001",
                    f"{text} is out of range",
                    next="temperature >= 0 (0: most likely code), top_k >= 0 (0: off), 0 < top_p <= 1 (1: off)",
                )


def probabilities(logits: Tensor, rules: Rules) -> Tensor:
    """The distribution that is drawn from, [..., V], for a temperature above 0."""
    if rules.temperature != 1:
        # Against the largest first: a small temperature must not overflow.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / rules.temperature
    p = logits.softmax(dim=-1)
    if rules.top_k == 0 and rules.top_p == 1:
        return p
    ordered = _descending(p)
    if rules.top_k:
        ordered = ordered[..., : rules.top_k]
    least = ordered[..., -1:]
    if rules.top_p < 1:
        before = ordered.cumsum(dim=-1) - ordered
        kept = (before < rules.top_p * ordered.sum(dim=-1, keepdim=True)).sum(dim=-1, keepdim=True)
        least = ordered.gather(-1, kept - 1)
    p = p * (p >= least)
    return p / p.sum(dim=-1, keepdim=True)


def _descending(values: Tensor) -> Tensor:
    """The last dimension from large to small. On a CPU numpy's vectorised sort is ten times faster than torch's."""
    if values.is_cpu and not torch.compiler.is_compiling():
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)[..., ::-1].copy())
    return values.sort(dim=-1, descending=True).values


def draw(logits_BKV: Tensor, rules: Rules, uniform_BK: Tensor) -> Tensor:
    """ids_BK: the argmax at temperature 0, else the inverse of the distribution function at `uniform_BK` in [0, 1).

    One number decides a code, so two models that agree draw the same code from the same noise. No host sync.
    """
    if rules.temperature == 0:
        return logits_BKV.argmax(dim=-1)
    up_to_BKV = probabilities(logits_BKV, rules).cumsum(dim=-1)
    at_BK1 = uniform_BK[..., None] * up_to_BKV[..., -1:]
    # The first id whose sum exceeds the number, so that an id of probability 0 is never drawn. (XLA can count, and not
    # search.)
    return (up_to_BKV <= at_BK1).sum(dim=-1)


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

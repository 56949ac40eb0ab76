"""A number for the bits of a tensor, made on its device: whether something changed, without a copy of it.

    sum over i of bits(x_i) * odd(i)    modulo 2^64

by chunks, each of which multiplies the sum so far by another odd number. As all factors are odd, a change of one
element always changes the sum; changes of several cancel by chance only. It is exact arithmetic on integers, so the
same bits have the same number on every device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from partimento.training.muon import local

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 1 << 20  # elements, which become as many 64-bit integers
_MIX, _NEXT = 0x1E3779B97F4A7C15, 0x2545F4914F6CDD1D


@torch.no_grad()
def fingerprints(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """One number for each tensor; of a sharded one, for this rank's part. The device is waited for once."""
    if not tensors:
        return {}
    factors: dict[torch.device, Tensor] = {}
    totals = []
    for tensor in tensors.values():
        part = local(tensor).detach()
        if part.device not in factors:
            place = torch.arange(1, _AT_ONCE + 1, device=part.device)
            factors[part.device] = (place * _MIX >> 20) | 1
        totals.append(_fingerprint(part, factors[part.device]))
    return dict(zip(tensors, torch.stack(totals).tolist(), strict=True))


def _fingerprint(tensor: Tensor, factors: Tensor) -> Tensor:
    flat = tensor.contiguous().reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for part in flat.view(_INTEGERS[flat.element_size()]).split(_AT_ONCE):
        total = total * _NEXT + (part * factors[: len(part)]).sum()
    return total

"""Randomness as a pure function of its key.

Which clip, which crop, which tags survive, the dropout stream, the noise of a sample: all are computed from
(seed, step, item, purpose) and never from hidden state, so that a run resumes bit for bit and a batch is the same on
1, 2 or 8 devices.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

_ROUNDS = 6


def key(*parts: int | str) -> int:
    """A 63-bit integer that depends on every part and on their order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def uniform(*parts: int | str) -> float:
    """A number in [0, 1) for this key."""
    return (key(*parts) >> 10) / 2**53


def below(n: int, *parts: int | str) -> int:
    """An integer in 0..n-1 for this key (bias below n / 2**63)."""
    if n < 1:
        raise ValueError(f"below({n}) has no value to give")
    return key(*parts) % n


def numpy_rng(*parts: int | str) -> np.random.Generator:
    """A numpy generator for this key."""
    return np.random.Generator(np.random.PCG64(key(*parts)))


def torch_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for this key."""
    return torch.Generator(device=device).manual_seed(key(*parts))


def permute(index: int, n: int, *parts: int | str) -> int:
    """Image of `index` under a keyed permutation of 0..n-1.

    A balanced Feistel network on the next power of four, walked until the value falls below n (cycle walking), so no
    table is kept however large n is.
    """
    if not 0 <= index < n:
        raise ValueError(f"index {index} is outside 0..{n - 1}")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    round_keys = _round_keys(parts)
    value = index
    while True:
        left, right = value >> half, value & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right, round_key) & mask)
        value = (left << half) | right
        if value < n:
            return value


def _round_keys(parts: tuple[int | str, ...], _cache: dict[tuple[int | str, ...], list[int]] = {}) -> list[int]:  # noqa: B006
    found = _cache.get(parts)
    if found is None:
        if len(_cache) > 1024:
            _cache.clear()
        found = _cache[parts] = [key(*parts, "feistel", number) for number in range(_ROUNDS)]
    return found


def _mix(value: int, round_key: int) -> int:
    """The finaliser of splitmix64 over value + key."""
    value = (value + round_key) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)

"""Randomness as a pure function of its key.

Which clip, which crop, which tags survive, the dropout stream, the noise of a sample: all are computed from
(seed, step, item, purpose) and never from hidden state, so that a run resumes bit for bit and a batch is the same on
1, 2 or 8 devices.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FEW = 8  # below so many values, Python's integers are quicker than numpy's calls


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
    import torch  # a pack is made and read without it

    return torch.Generator(device=device).manual_seed(key(*parts))


def bits_many(indices: ArrayLike, *parts: int | str) -> NDArray[np.uint64]:
    """64 random bits for each index: the stream of splitmix64 from key(parts), its elements taken by number.

    Element i is mix(key + golden * (i + 1)) modulo 2**64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014), so that any element costs the same and neighbours are as independent as strangers.
    """
    state = np.array(indices, dtype=np.uint64)
    state += np.uint64(1)
    state *= _GOLDEN
    return _mix_many(state, key(*parts))


def uniform_many(indices: ArrayLike, *parts: int | str) -> NDArray[np.float64]:
    """A number in [0, 1) for each index under this key."""
    return np.asarray((bits_many(indices, *parts) >> np.uint64(11)) * 2.0**-53)


def below_many(n: ArrayLike, indices: ArrayLike, *parts: int | str) -> NDArray[np.int64]:
    """An integer in 0..n-1 for each index under this key; `n` is one number or one an index (bias below n / 2**64)."""
    limit = np.asarray(n)
    if limit.size and limit.min() < 1:
        raise ValueError(f"below_many({limit.min()}) has no value to give")
    return np.asarray(bits_many(indices, *parts) % limit.astype(np.uint64)).astype(np.int64)


def permute(index: int, n: int, *parts: int | str) -> int:
    """Image of `index` under a keyed permutation of 0..n-1.

    A balanced Feistel network on the next power of four, walked until the value falls below n (cycle walking), so no
    table is kept however large n is.
    """
    if not 0 <= index < n:
        raise ValueError(f"index {index} is outside 0..{n - 1}")
    return _walk(index, n, _round_keys(parts))


def permute_many(indices: ArrayLike, n: int, *parts: int | str) -> NDArray[np.int64]:
    """`permute` of each index, in the shape of `indices`."""
    given = np.asarray(indices)
    if given.size and not 0 <= given.min() <= given.max() < n:
        raise ValueError(f"an index of {given.min()}..{given.max()} is outside 0..{n - 1}")
    round_keys, half = _round_keys(parts), _half_bits(n)
    shift, mask, limit = np.uint64(half), np.uint64((1 << half) - 1), np.uint64(n)
    values = given.astype(np.uint64).ravel()
    image = np.empty(values.shape, dtype=np.int64)
    waiting = np.arange(len(values))
    while len(waiting) > _FEW:
        left, right = values >> shift, values & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix_many(right.copy(), round_key) & mask)
        values = (left << shift) | right
        inside = values < limit
        image[waiting[inside]] = values[inside]
        waiting, values = waiting[~inside], values[~inside]
    image[waiting] = [_walk(value, n, round_keys) for value in values.tolist()]
    return image.reshape(given.shape)


def _walk(value: int, n: int, round_keys: list[int]) -> int:
    half = _half_bits(n)
    mask = (1 << half) - 1
    while True:
        left, right = value >> half, value & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right, round_key) & mask)
        value = (left << half) | right
        if value < n:
            return value


def _half_bits(n: int) -> int:
    return max(1, ((n - 1).bit_length() + 1) // 2)


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


def _mix_many(values: NDArray[np.uint64], round_key: int) -> NDArray[np.uint64]:
    """`_mix` of each value, in place (numpy's uint64 wraps around by itself)."""
    values += np.uint64(round_key)
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values

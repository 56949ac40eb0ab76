"""The checksums of Ogg pages and of LAME's MP3 header, at the speed of zlib and numpy."""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LANE = 1024


def ogg(page: bytes) -> int:
    """CRC-32 with polynomial 04C11DB7, not mirrored, start 0 (RFC 3533): zlib's mirrored one on mirrored bytes."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def arc(data: bytes) -> int:
    """CRC-16 with polynomial 8005, mirrored, start 0, as LAME writes it over the frames of an MP3.

    Bytes depend on each other, so the data is cut into lanes that go side by side; a checksum being linear, that of
    the whole is the sum of the lanes', each moved on past the bytes that follow it.
    """
    lanes = len(data) // _LANE
    table = _table()
    columns = np.ascontiguousarray(np.frombuffer(data, np.uint8, lanes * _LANE).reshape(lanes, _LANE).T)
    state = np.zeros(lanes, np.uint16)
    for column in columns:
        state = table[(state ^ column) & 255] ^ (state >> 8)
    low, high = _past_a_lane()
    total = 0
    for lane in state.tolist():
        total = low[total & 255] ^ high[total >> 8] ^ lane
    return _plain(data[lanes * _LANE :], total)


def _plain(data: bytes, state: int) -> int:
    table = _table().tolist()
    for byte in data:
        state = table[(state ^ byte) & 255] ^ (state >> 8)
    return state


@cache
def _table() -> NDArray[np.uint16]:
    table = np.arange(256, dtype=np.uint16)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ 0xA001, table >> 1).astype(np.uint16)
    return table


@cache
def _past_a_lane() -> tuple[list[int], list[int]]:
    """What each low and each high byte of a state becomes after a lane of zeros."""
    bits = [_plain(bytes(_LANE), 1 << bit) for bit in range(16)]

    def moved(state: int) -> int:
        out = 0
        for bit in range(16):
            out ^= bits[bit] if state >> bit & 1 else 0
        return out

    return [moved(byte) for byte in range(256)], [moved(byte << 8) for byte in range(256)]

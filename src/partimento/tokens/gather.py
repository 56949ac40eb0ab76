"""Many windows of codes at once: from memory-mapped shards straight into one array, one copy an item."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from partimento.tokens.pack import Pack
from partimento.tokens.patterns import mark
from partimento.tokens.spec import Specials


def gather(
    pack: Pack,
    clip_B: NDArray[np.integer],
    first_B: NDArray[np.int64],
    count: int,
    specials: Specials,
    *,
    ends: bool,
    dtype: DTypeLike,
) -> NDArray[Any]:
    """Frames first .. first + count - 1 of each clip, [B, count, K]; what lies outside of a clip is `patterns.mark`ed.

    The clips must have passed `pack.ensure`. `dtype` must hold the codes and the specials (`id_dtype`).
    """
    frames_BNK = np.empty((len(clip_B), count, pack.spec.codebooks), dtype=dtype)
    frames_B = pack.clips.frames[clip_B].astype(np.int64)
    row_B = pack.clips.first_frame[clip_B].astype(np.int64) + first_B  # of `first`, in the shard
    inside_B = (first_B >= 0) & (first_B + count <= frames_B)
    shard_B = pack.clips.shard[clip_B].tolist()
    shards = {number: _as(frames_BNK.dtype, pack.shard_codes(number)) for number in set(shard_B)}
    for item, (shard, row, inside) in enumerate(zip(shard_B, row_B.tolist(), inside_B.tolist(), strict=True)):
        if inside:
            frames_BNK[item] = shards[shard][row : row + count]
        else:
            first = int(first_B[item])
            to, a, b = mark(frames_BNK[item], first, int(frames_B[item]), specials, ends)
            frames_BNK[item, to : to + b - a] = shards[shard][row - first + a : row - first + b]
    return frames_BNK


def _as(kind: np.dtype[Any], codes: NDArray[np.uint16]) -> NDArray[Any]:
    """Codes as a plain array, since slicing a numpy.memmap costs more than copying a window of it; seen as `kind` where
    that has their size, so that copying them is plain (`kind` would be larger if any code reached the sign bit)."""
    codes = np.asarray(codes)
    return codes.view(kind.newbyteorder("<")) if kind.itemsize == codes.itemsize else codes


def id_dtype(specials: Specials) -> np.dtype[np.signedinteger]:
    """The smaller of int16 and int32 that holds every id of a grid."""
    return np.dtype(np.int16 if specials.rows - 1 <= np.iinfo(np.int16).max else np.int32)

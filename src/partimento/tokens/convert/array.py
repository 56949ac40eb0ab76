"""Arrays of foreign codes: what an array of this shape and type may be."""

from __future__ import annotations

import io
import math
import tokenize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.tokens.convert.item import MOST_BOOKS, out_of_range, unfit


def of_npy(content: bytes, *, where: str) -> NDArray[np.integer[Any]]:
    """The array of a .npy file's bytes, a view of them. Only whole numbers; objects are never built.

    Raises CONVERT003 where it is no such array, or has other than the bytes that its shape needs.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its version is {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    # What numpy lets through of a header that is Python source.
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as err:
        raise unfit(f"its header is not that of a .npy file: {err}", where=where) from err
    if dtype.kind not in "iu" or dtype.itemsize > 8:
        raise unfit(f"its numbers are {dtype}, not whole", where=where)
    need, have = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if min(shape, default=1) < 0 or need != have:
        raise unfit(f"its shape {shape} needs {need} bytes, and it has {have}", where=where)
    flat = np.frombuffer(content, dtype, math.prod(shape), offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def as_codes(array: NDArray[Any], *, where: str) -> NDArray[np.uint16]:
    """[T, K] of any whole numbers as uint16. Raises CONVERT006 where one does not fit."""
    if array.size and (int(array.min()) < 0 or int(array.max()) > 65535):
        wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
        raise out_of_range(f"it holds {wrong}, which no codec of 65,536 codes or fewer has", where=where)
    return array.astype(np.uint16)


def frame_major(array: NDArray[np.integer[Any]], books: int | None, *, where: str) -> NDArray[np.integer[Any]]:
    """[T, K] of [1, K, T], [K, T] or [T, K].

    Three axes are [1, K, T]. Of two, the one of `books` is K if that is known and one axis alone has it; else the
    shorter one, if it is 32 at most and shorter. Everything else is refused as CONVERT003.
    """
    if array.ndim == 3 and array.shape[0] == 1 and 1 <= array.shape[1] <= MOST_BOOKS:
        return array[0].T
    if array.ndim == 2 and min(array.shape) >= 1:
        first, second = array.shape
        if books is not None and (first == books) != (second == books):
            return array.T if first == books else array
        if first != second and min(first, second) <= MOST_BOOKS:
            return array.T if first < second else array
    raise unfit(f"its shape {array.shape} does not tell books from frames", where=where)

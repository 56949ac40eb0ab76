"""A recording that arrives in blocks of any sizes, cut into windows of one fixed length at places of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    part: NDArray[Any]
    """[rows, at most size * unit]"""
    first: int
    last: int
    """The frames of `part` that are kept."""


def windows(blocks: Iterable[NDArray[Any]], unit: int, size: int, context: int) -> Iterator[Window]:
    """Windows of `size` frames of `unit` elements along the last axis, whose kept frames lie side by side.

    All begin `size - 2 * context` frames apart and are of one length, the last one too: it is moved back until it ends
    with the recording. Only a recording shorter than one window gives a shorter one.
    """
    step = size - 2 * context
    pending: list[NDArray[Any]] = []
    count = origin = start = 0  # elements held; the frame that they begin with; where the next window begins
    for block in blocks:
        pending.append(block)
        count += block.shape[-1]
        while count > (start - origin + size) * unit:  # more follows, so this window is not the last
            held = np.concatenate(pending, axis=-1) if len(pending) > 1 else pending[0]
            held = held[..., (start - origin) * unit :]
            yield Window(held[..., : size * unit], context if start else 0, size - context)
            pending, count, origin = [held], held.shape[-1], start
            start += step
    if count:
        held = np.concatenate(pending, axis=-1)
        total = origin + -(-count // unit)
        begin = max(0, total - size)
        first = start + context - begin if start else 0
        yield Window(held[..., (begin - origin) * unit :], first, total - begin)


def alike(cut: Iterable[Window], batch: int) -> Iterator[list[Window]]:
    """Groups of up to `batch` windows of one shape."""
    group: list[Window] = []
    for window in cut:
        if group and (len(group) == batch or group[0].part.shape != window.part.shape):
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def reblocked(blocks: Iterable[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """The same elements in blocks of `size` along the last axis, the last one shorter."""
    return (window.part[..., window.first : window.last] for window in windows(blocks, 1, size, 0))

"""Grids: how the K codes of each frame are laid out over the steps of a model, and back.

One formula. The code of frame t, book k stands at step

    s(t, k) = 1 + stride * t + delay_k

and step 0 is BOS for every book. Before its frame 0 a book shows BOS; where a book has no frame it shows PAD; where the
clip truly ends, frame T of every book is EOS (so EOS is staggered like the codes) and what follows is PAD.

    delays (0, 2, 3), stride 1, T = 4, with its end     flat, K = 2 (stride 2, delays 0, 1), T = 2, no end
    step  book0 book1 book2                             step  book0 book1
     0     BOS   BOS   BOS                               0     BOS   BOS
     1     c0    BOS   BOS                               1     c0    BOS
     2     c1    BOS   BOS                               2     PAD   c0
     3     c2    c0    BOS                               3     c1    PAD
     4     c3    c1    c0                                4     PAD   c1
     5     EOS   c2    c1
     6     PAD   c3    c2
     7     PAD   EOS   c3
     8     PAD   PAD   EOS

Shapes: codes_BTK, grid_BSK, and frames_BNK: codes with the specials of their clip's two ends beside them. What reads a
pack works on numpy: `mark` and `arrange` for batches, `window` for one clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.tokens.spec import Specials

# Where a book has no frame at a step (strides above 1). Later than any end, so that it reads as PAD without a rule.
NO_FRAME = int(np.iinfo(np.int64).max)

NAMES = ("delay", "parallel", "flat", "dia")


@dataclass(frozen=True)
class Pattern:
    """K delays in steps, and the steps from one frame to the next."""

    delays: tuple[int, ...]
    stride: int = 1

    def __post_init__(self) -> None:
        whole = all(isinstance(d, int) and not isinstance(d, bool) and d >= 0 for d in self.delays)
        if not self.delays or not whole or self.stride < 1:
            raise PartimentoError(
                "TOKEN001",
                f"not a pattern: delays {list(self.delays)}, stride {self.stride}",
                why="a pattern has one whole delay of at least 0 for each codebook, and a stride of at least 1",
                next=f"use one of {', '.join(NAMES)}, or a list such as [0, 1, 2]",
            )

    @classmethod
    def named(cls, name: str | Sequence[int], codebooks: int, channels: Sequence[int] = ()) -> Pattern:
        """`delay` (0, 1, 2, ...), `parallel` (0, 0, ...), `flat` (one code a step), `dia` (0, 8, 9, ...), or a list.

        For codes of several channels `channels` says how many books each has (`CodecSpec.books`): delay and dia then
        start again in each. Raises TOKEN001 for another name, or a list that has not one delay for each codebook.
        """
        if not isinstance(name, str):
            pattern = cls(tuple(name))
            if pattern.codebooks != codebooks:
                raise PartimentoError(
                    "TOKEN001",
                    f"the pattern {list(name)} has {pattern.codebooks} delays, the codec {codebooks} codebooks",
                    next="set model.pattern to one delay for each codebook, or to a name such as delay",
                )
            return pattern
        books = tuple(channels) or (codebooks,)
        if name == "delay":
            return cls(tuple(delay for count in books for delay in range(count)))
        if name == "parallel":
            return cls((0,) * codebooks)
        if name == "flat":
            return cls(tuple(range(codebooks)), stride=codebooks)
        if name == "dia":
            return cls(tuple(delay for count in books for delay in (0, *range(8, 8 + count - 1))))
        raise PartimentoError(
            "TOKEN001", f"unknown pattern {name!r}", next=f"use one of {', '.join(NAMES)}, or a list of delays"
        )

    @property
    def codebooks(self) -> int:
        return len(self.delays)

    @property
    def max_delay(self) -> int:
        return max(self.delays)

    def steps(self, frames: int, ends: bool) -> int:
        """S: rows of the grid of a clip of `frames` frames, with or without its end. Nothing of it is cut."""
        return int(self.steps_many(np.asarray(frames), ends))

    def steps_many(self, frames: NDArray[np.integer], ends: bool) -> NDArray[np.int64]:
        """`steps` of each clip."""
        return np.maximum(1, self.stride * (frames.astype(np.int64) - 1 + ends) + self.max_delay + 2)

    def step_of(self, frame: int, book: int) -> int:
        """s(t, k)."""
        return 1 + self.stride * frame + self.delays[book]

    def frame_at(self, step: int, book: int) -> int | None:
        """The frame whose code of `book` stands at `step`, however long the clip; None where no frame stands."""
        frame, between = divmod(step - 1 - self.delays[book], self.stride)
        return None if between or frame < 0 else frame

    def span(self, start: NDArray[np.int64] | int, steps: int) -> tuple[NDArray[np.int64], int]:
        """(first, count): the rows [start, start + steps) hold no frame outside of [first, first + count).

        `first` is one number for each start, below 0 where BOS stands; `count` is the same for every start.
        """
        first = np.floor_divide(np.asarray(start, dtype=np.int64) - 1 - self.max_delay, self.stride)
        return first, (self.stride + steps - 2 + self.max_delay - min(self.delays)) // self.stride + 1

    def holds(self, start: int, steps: int) -> NDArray[np.int64]:
        """Frame index at each place [S, K] of the rows [start, start + steps): below 0 before the first frame (BOS),
        NO_FRAME where a book has none (PAD); the caller compares with its T for the end. Read-only."""
        return _holds(self, start, steps)


@lru_cache(maxsize=512)
def _holds(pattern: Pattern, start: int, steps: int) -> NDArray[np.int64]:
    place_SK = np.arange(start - 1, start - 1 + steps)[:, None] - np.asarray(pattern.delays)[None, :]
    frame_SK = np.floor_divide(place_SK, pattern.stride)
    frame_SK[(place_SK >= 0) & (place_SK % pattern.stride != 0)] = NO_FRAME
    frame_SK.setflags(write=False)
    return frame_SK


def apply(codes_BTK: Tensor, pattern: Pattern, specials: Specials, *, ends: bool) -> Tensor:
    """The whole grid_BSK (int64) of whole clips of equal length T >= 0. `ends`: frame T is EOS in every book."""
    _check_books(codes_BTK.shape[-1], pattern)
    B, T, _ = codes_BTK.shape
    frame_SK = torch.from_numpy(pattern.holds(0, pattern.steps(T, ends)).copy()).to(codes_BTK.device)
    grid_SK = torch.full_like(frame_SK, specials.pad)
    grid_SK[frame_SK < 0] = specials.bos
    if ends:
        grid_SK[frame_SK == T] = _eos(specials)
    if T == 0:
        return grid_SK.expand(B, -1, -1).clone()
    index_BSK = frame_SK.clamp(0, T - 1).expand(B, -1, -1)
    codes_BSK = codes_BTK.long().gather(1, index_BSK)
    return torch.where((frame_SK >= 0) & (frame_SK < T), codes_BSK, grid_SK)


def mark(
    frames_NK: NDArray[np.integer], first: int, total: int, specials: Specials, ends: bool
) -> tuple[int, int, int]:
    """Write the specials among the frames first .. first + N - 1 of a clip of `total` frames: BOS before its frame 0,
    EOS as its frame `total` (if it `ends`), PAD after.

    Returns (row, a, b): the caller puts the codes of frames a..b-1 at rows row .. row + b - a - 1, which are left.
    """
    count = len(frames_NK)
    a, b = min(max(first, 0), total), min(max(first + count, 0), total)
    frames_NK[: max(0, -first)] = specials.bos
    after = min(max(total - first, 0), count)
    frames_NK[after:] = specials.pad
    if ends and 0 <= total - first < count:
        frames_NK[total - first] = _eos(specials)
    return min(max(-first, 0), count), a, max(a, b)


def arrange(
    frames_BNK: NDArray[np.integer], start_B: NDArray[np.int64], steps: int, pattern: Pattern, specials: Specials
) -> NDArray[np.integer]:
    """Rows [start, start + steps) of each item's grid, [B, steps, K], from the frames that `pattern.span` names.

    The frames are marked (`mark`), so that each book is a delayed copy of its column: one strided copy for each run of
    books of equal delay. With a stride above 1 the items also differ in where between two frames they begin.
    """
    B, _, K = frames_BNK.shape
    _check_books(K, pattern)
    stride, deepest = pattern.stride, pattern.max_delay
    if stride == 1:
        grid_BSK = np.empty((B, steps, K), dtype=frames_BNK.dtype)
    else:
        grid_BSK = np.full((B, steps, K), specials.pad, dtype=frames_BNK.dtype)
    phase_B = (start_B - 1 - deepest) % stride
    for phase in np.unique(phase_B) if stride > 1 else (0,):
        of_phase = slice(None) if stride == 1 else np.flatnonzero(phase_B == phase)
        for low, high in _runs(pattern.delays):
            past = int(phase) + deepest - pattern.delays[low]  # steps from the span's first frame to row 0
            row = -past % stride
            frame, count = (past + row) // stride, max(0, -(-(steps - row) // stride))
            grid_BSK[of_phase, row::stride, low:high] = frames_BNK[of_phase, frame : frame + count, low:high]
    if stride > 1:  # the places between two frames are PAD, but BOS before the first
        early = np.flatnonzero(start_B <= deepest)
        place_BSK = (start_B[early] - 1)[:, None, None] + np.arange(steps)[:, None] - np.asarray(pattern.delays)
        grid_BSK[early] = np.where(place_BSK < 0, specials.bos, grid_BSK[early])
    return grid_BSK


@lru_cache(maxsize=64)
def _runs(delays: tuple[int, ...]) -> list[tuple[int, int]]:
    """[low, high) of neighbouring books of equal delay."""
    edges = [0, *(k for k in range(1, len(delays)) if delays[k] != delays[k - 1]), len(delays)]
    return list(pairwise(edges))


def window(
    read: Callable[[int, int], NDArray[np.integer]],
    frames_total: int,
    pattern: Pattern,
    specials: Specials,
    start: int,
    steps: int,
    ends: bool,
) -> NDArray[np.int64]:
    """Rows [start, start + steps) of the whole clip's grid, [S, K] int64; rows past its last are PAD.

    `read(first, last)` gives codes [n, K] of frames first..last-1; only the frames that the rows hold are read. So a
    window in the middle of a clip has real delayed codes in every column from its first row on, BOS is seen at true
    starts only and EOS at true ends only.
    """
    first, count = pattern.span(start, steps)
    frames_NK = np.empty((count, pattern.codebooks), dtype=np.int64)
    row, a, b = mark(frames_NK, int(first), frames_total, specials, ends)
    if a < b:
        codes_NK = np.asarray(read(a, b))
        _check_books(codes_NK.shape[-1], pattern)
        frames_NK[row : row + b - a] = codes_NK
    return arrange(frames_NK[None], np.asarray([start]), steps, pattern, specials)[0].astype(np.int64, copy=False)


def revert(grid_BSK: Tensor, pattern: Pattern, frames: int, *, cardinality: int | Sequence[int]) -> Tensor:
    """The codes_BTK of the first `frames` frames: the exact inverse of `apply`, with or without its end.

    `cardinality` is one number, or one for each book. Raises TOKEN002 where the grid is too short for so many frames,
    or where a special or an id that no code has stands at the place of a code.
    """
    _check_books(grid_BSK.shape[-1], pattern)
    B, S, K = grid_BSK.shape
    needed = pattern.steps(frames, ends=False) if frames else 0
    if needed > S:
        raise PartimentoError(
            "TOKEN002", f"a grid of {S} steps does not hold {frames} frames", why=f"they need {needed} steps"
        )
    step_TK = torch.tensor(pattern.delays)[None, :] + 1 + pattern.stride * torch.arange(frames)[:, None]
    codes_BTK = grid_BSK.gather(1, step_TK.to(grid_BSK.device).expand(B, -1, -1))
    limit_K = torch.as_tensor(cardinality, device=grid_BSK.device).expand(K)
    wrong = (codes_BTK < 0) | (codes_BTK >= limit_K)
    if wrong.any():
        b, t, k = (int(i) for i in wrong.nonzero()[0])
        raise PartimentoError(
            "TOKEN002",
            f"id {int(codes_BTK[b, t, k])} stands where a code below {int(limit_K[k])} must",
            where=f"item {b}, frame {t}, codebook {k} (grid step {pattern.step_of(t, k)})",
        )
    return codes_BTK


def _check_books(books: int, pattern: Pattern) -> None:
    if books != pattern.codebooks:
        raise PartimentoError("TOKEN001", f"{books} codebooks do not fit a pattern of {pattern.codebooks} delays")


def _eos(specials: Specials) -> int:
    if specials.eos is None:
        raise ValueError("these specials have no EOS; lay the grid out without its end")
    return specials.eos

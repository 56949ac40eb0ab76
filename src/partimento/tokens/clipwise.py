"""Whole clips read once, in groups, for all who want to see their codes; and the first of these: repeated frames.

Nothing here knows the codec. A stretch of digital silence (or of any constant sound) gives one frame again and again,
so runs of one repeated frame are what silence looks like in codes; clips of different sources that begin with the very
same frames begin, most likely, with silence (a model then learns one opening for all songs).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from partimento.progress import Progress, Quiet
from partimento.tokens.counting import groups, whole
from partimento.tokens.pack import Pack

OPENING_SECONDS = 0.25
STILL_SECONDS = 0.1
"""A frame that repeats for less is no silence yet: held notes do that."""
CELLS = 2**22
"""Clips times codes of a book that are counted at once."""


@dataclass(frozen=True)
class Group:
    """The codes of some whole clips, back to back; clip i is rows starts[i] to starts[i + 1] (never empty)."""

    rows: NDArray[np.int64]  # places of the clips in the list of clips that is read
    codes_NK: NDArray[np.uint16]
    starts: NDArray[np.int64]


class Reader(Protocol):
    def add(self, group: Group) -> None: ...


def read(pack: Pack, clips: NDArray[np.int64], readers: Sequence[Reader], progress: Progress | None = None) -> None:
    """Read the clips once, in order, and show every group of them to each of the readers. Empty clips are left out.

    Raises what `Pack.read` does where a clip is damaged.
    """
    progress = progress or Quiet()
    frames = np.asarray(pack.clips.frames[clips], dtype=np.int64)
    filled = np.flatnonzero(frames > 0)
    spans = whole(pack, clips[filled])
    done = 0
    for group in groups(spans, most=max(1, CELLS // pack.spec.cardinality)):
        parts = [pack.read(*span) for span in group]
        starts = np.cumsum([0, *map(len, parts)])
        shown = Group(filled[done : done + len(group)], np.concatenate(parts), starts)
        for reader in readers:
            reader.add(shown)
        done += len(group)
        progress.update(done, len(spans), clips=done)


class UnigramCounts:
    """Counts [K][V] of each split (its number by clip)."""

    def __init__(self, cardinalities: Sequence[int], split_C: NDArray[np.int64], splits: int) -> None:
        self.n_SKV = [[np.zeros(V, dtype=np.int64) for V in cardinalities] for _ in range(splits)]
        self._split_C = split_C

    def add(self, group: Group) -> None:
        split_N = np.repeat(self._split_C[group.rows], np.diff(group.starts))
        for split, n_KV in enumerate(self.n_SKV):
            codes_NK = group.codes_NK[split_N == split]
            for book, n_V in enumerate(n_KV):
                n_V += np.bincount(codes_NK[:, book], minlength=len(n_V))


class Runs:
    """Runs of one repeated frame: for each clip its longest, leading and trailing run (1 where no frame repeats), the
    frames in runs of at least `still` frames, and a hash of its first `opening` frames (0 for a shorter clip)."""

    def __init__(self, clips: int, frame_rate: float) -> None:
        self.still = max(2, math.ceil(STILL_SECONDS * frame_rate))
        self.opening = max(2, math.ceil(OPENING_SECONDS * frame_rate))
        self.longest_C, self.leading_C, self.trailing_C, self.still_C = np.zeros((4, clips), dtype=np.int64)
        self.opening_C = np.zeros(clips, dtype=np.uint64)
        self.still_frames: Counter[bytes] = Counter()
        """Frames that stand still, by the frame's codes (uint16): the commonest is most likely silence."""

    def add(self, group: Group) -> None:
        rows, starts = group.rows, group.starts
        fresh_N = np.empty(len(group.codes_NK), dtype=bool)
        fresh_N[1:] = (group.codes_NK[1:] != group.codes_NK[:-1]).any(axis=1)
        fresh_N[starts[:-1]] = True
        begin = np.flatnonzero(fresh_N)
        length = np.diff(begin, append=len(fresh_N))
        first = np.searchsorted(begin, starts[:-1])  # each clip's first run
        last = np.append(first[1:], len(begin)) - 1
        self.longest_C[rows] = np.maximum.reduceat(length, first)
        self.leading_C[rows], self.trailing_C[rows] = length[first], length[last]
        self.still_C[rows] = np.add.reduceat(np.where(length >= self.still, length, 0), first)
        for run in np.flatnonzero(length >= self.still):
            self.still_frames[group.codes_NK[begin[run]].tobytes()] += int(length[run])
        if len(self.still_frames) > 2**17:  # rare ones are forgotten; what is asked for is the commonest
            self.still_frames = Counter(dict(self.still_frames.most_common(2**16)))
        for row, start, end in zip(rows, starts[:-1], starts[1:], strict=True):
            if end - start >= self.opening:
                text = group.codes_NK[start : start + self.opening].tobytes()
                self.opening_C[row] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") | 1

    def shared_openings(self, source_C: Sequence[str]) -> NDArray[np.bool_]:
        """Which clips begin with the very frames that a clip of another source begins with."""
        sources: dict[int, set[str]] = {}
        for key, source in zip(self.opening_C.tolist(), source_C, strict=True):
            held = sources.setdefault(key, set())
            if key and len(held) < 2:
                held.add(source)
        return np.asarray([len(sources[key]) > 1 for key in self.opening_C.tolist()], dtype=bool)

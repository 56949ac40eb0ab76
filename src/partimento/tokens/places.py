"""Where windows lie, as a pure function of (seed, number): the definition of the draw, for many items at once.

An epoch gives each clip as many slots as windows fit into its grid. A keyed permutation (Feistel) orders the slots of
each epoch, and a keyed start places the window. The only state is a counter, and nothing here reads codes, so an index
of a million hours (17 M clips) is drawn from as fast as a small one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.tokens.patterns import Pattern

Place = tuple[NDArray[np.int64], NDArray[np.int64]]

_BLOCK = 4096  # places are computed for this many neighbouring items together: some 0.5 ms, and 0.2 ms for 64
_CHUNK = 1 << 20


class Places:
    """Places of windows of `window` + 1 grid rows in the clips numbered `clips`.

    `frames` are those of all clips of the pack; `ends`: clips end with a row of EOS; `begin_share` of the windows begin
    with their clip, on top of those that are drawn there.
    """

    def __init__(
        self,
        clips: NDArray[np.integer],
        frames: NDArray[np.integer],
        pattern: Pattern,
        *,
        ends: bool,
        window: int,
        seed: int,
        split: str,
        begin_share: float = 0.0,
    ) -> None:
        self.begin_share = begin_share
        self.clips, self.frames, self.pattern = clips, frames, pattern
        self.ends, self.window, self.seed, self.split = ends, window, seed, split
        self._slot_ends = self._count()
        self.slots = int(self._slot_ends[-1])
        """Windows in an epoch."""
        self._blocks: dict[int, Place] = {}
        self._last = -1

    def _count(self) -> NDArray[np.unsignedinteger]:
        """Slots of the clips up to each one, in the smaller type that holds them."""
        ends_C: NDArray[np.unsignedinteger] = np.empty(len(self.clips), dtype=np.uint32)
        total = 0
        for first in range(0, len(self.clips), _CHUNK):
            slots_C = np.maximum(1, np.rint(self.steps(self.clips[first : first + _CHUNK]) / self.window))
            sums_C = total + np.cumsum(slots_C.astype(np.int64))
            total = int(sums_C[-1])
            if total > np.iinfo(ends_C.dtype).max:
                ends_C = ends_C.astype(np.uint64)
            ends_C[first : first + _CHUNK] = sums_C
        return ends_C

    def steps(self, clips: NDArray[np.integer]) -> NDArray[np.int64]:
        """Rows of the grid of each of these clips."""
        return self.pattern.steps_many(self.frames[clips], self.ends)

    def slots_each(self) -> NDArray[np.int64]:
        """Slots that an epoch gives to each of `clips`."""
        ends_C = self._slot_ends.astype(np.int64)
        return ends_C - np.concatenate([[0], ends_C[:-1]])

    def at(self, index_B: NDArray[np.int64]) -> Place:
        """(clips, starts), int64, of the items of these numbers, at least 0; epoch = number // slots."""
        if not index_B.size:
            return index_B.copy(), index_B.copy()
        low, high = int(index_B.min()), int(index_B.max())
        if low < 0:
            raise ValueError(f"items are numbered from 0, there is no {low}")
        first, last = low // _BLOCK, high // _BLOCK
        ahead = first - self._last in (0, 1) and last - first <= 1  # who reads on from before goes on reading
        self._last = last
        if not ahead:
            return self.define(index_B)
        clips, starts = self._block(first)
        if last > first:
            more_clips, more_starts = self._block(last)
            clips, starts = np.concatenate([clips, more_clips]), np.concatenate([starts, more_starts])
        at_B = index_B - first * _BLOCK
        return clips[at_B], starts[at_B]

    def _block(self, number: int) -> Place:
        found = self._blocks.get(number)
        if found is None:
            if len(self._blocks) > 3:
                self._blocks.clear()
            found = self._blocks[number] = self.define(np.arange(number * _BLOCK, (number + 1) * _BLOCK))
        return found

    def define(self, index_B: NDArray[np.int64], attempt: int = 0) -> Place:
        """The definition. Attempts above 0 take another clip instead (of a damaged one), each clip by its slots."""
        if attempt:
            slot_B = keyed.below_many(self.slots, index_B, "redraw", self.seed, self.split, attempt)
        else:
            epoch_B, slot_B = np.divmod(index_B, self.slots)
            for epoch in np.unique(epoch_B).tolist():
                of = epoch_B == epoch
                slot_B[of] = keyed.permute_many(slot_B[of], self.slots, "slots", self.seed, self.split, epoch)
        # The needle has the haystack's type, or numpy would convert the haystack.
        clip_B = self.clips[np.searchsorted(self._slot_ends, slot_B.astype(self._slot_ends.dtype), side="right")]
        # The overhang folds back onto the true start and the true end, so that both are seen often.
        room_B, overhang = np.maximum(0, self.steps(clip_B) - (self.window + 1)), self.window // 8
        drawn_B = keyed.below_many(room_B + 2 * overhang + 1, index_B, "start", self.seed, self.split, attempt)
        start_B = np.clip(drawn_B - overhang, 0, room_B)
        if self.begin_share:
            begins_B = keyed.uniform_many(index_B, "begin", self.seed, self.split, attempt) < self.begin_share
            start_B[begins_B] = 0
        return clip_B.astype(np.int64), start_B

    def tiles(self, n: int) -> Place:
        """Up to `n` places, no two of which share a target row, the same for every seed; sorted by clip and start."""
        tiles_C = -(-np.maximum(1, self.steps(self.clips) - 1) // self.window)
        ends_C = np.cumsum(tiles_C)
        total = int(ends_C[-1])
        tile_N = np.sort(keyed.permute_many(np.arange(min(n, total)), total, "fixed", self.split))
        number_N = np.searchsorted(ends_C, tile_N, side="right")
        start_N = (tile_N - (ends_C - tiles_C)[number_N]) * self.window
        return self.clips[number_N].astype(np.int64), start_N

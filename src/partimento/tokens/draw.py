"""Windows by key: which clip, which crop, which tags survive, all from (seed, index) and nothing else.

An epoch gives each clip as many slots as windows fit into its grid. A keyed permutation orders the slots of each epoch,
and a keyed start places the window. There is no state: item number i is the same on every machine, for any number of
ranks, before and after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from partimento import keyed
from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern, window
from partimento.tokens.spec import Specials


@dataclass(frozen=True)
class Item:
    """One window: rows [start, start + window + 1) of a clip's grid. Without `keep` it has the null condition."""

    clip: int
    start: int
    tags: tuple[str, ...]
    keep: bool


@dataclass(frozen=True)
class Batch:
    """grid_BSK int64 with S = window + 1 rows (inputs are rows :-1, targets rows 1:), tags_BG float32 multi-hot over
    the pack's tag vocabulary, keep_B bool (False: the null condition), items (clip, start)."""

    grid_BSK: Tensor
    tags_BG: Tensor
    keep_B: Tensor
    items: list[tuple[int, int]]

    @property
    def null_share(self) -> float:
        """Realised share of items without a condition."""
        return 1 - float(self.keep_B.float().mean())


class Draw:
    """Draws windows of `window` steps (inputs) from one split of a pack.

    `null_share` of the items lose their condition whole, `tag_dropout` of the single tags of the others are dropped.
    An item without tags (none given, or all dropped) has keep False as well: what has no condition gets the null
    condition, never an empty sum. Clips end with EOS where the specials have one. A clip shorter than the window is
    followed by PAD.

    Raises PACK007 where the window is longer than every clip of the pack, PACK008 where the split is empty.
    """

    def __init__(
        self,
        pack: Pack,
        pattern: Pattern,
        specials: Specials,
        *,
        split: str = "train",
        window: int,
        seed: int = 0,
        null_share: float = 0.0,
        tag_dropout: float = 0.0,
    ) -> None:
        self.pack, self.pattern, self.specials = pack, pattern, specials
        self.split, self.window, self.seed = split, window, seed
        self.null_share, self.tag_dropout = null_share, tag_dropout
        self.ends = specials.eos is not None
        self.clips = pack.split(split)
        longest = pattern.steps(int(pack.clips.frames.max()), self.ends) - 1
        if window > longest:
            raise PartimentoError(
                "PACK007",
                f"a window of {window} steps is longer than every clip",
                where=str(pack.path),
                why=f"the longest clip fills {longest} steps ({pack.spec.seconds(int(pack.clips.frames.max())):.1f} s)",
                next=f"set data.window to {longest} or less",
            )
        self._steps = [pattern.steps(int(frames), self.ends) for frames in pack.clips.frames[self.clips]]
        self._slot_ends = np.cumsum([max(1, round(steps / window)) for steps in self._steps])

    @property
    def slots(self) -> int:
        """Windows in an epoch."""
        return int(self._slot_ends[-1])

    @property
    def expected_null_share(self) -> float:
        """Share of the items that have the null condition, in the long run: dropped, or of a clip without tags.

        (Items that lose all their tags one by one to tag_dropout come on top.)
        """
        slots = np.diff(self._slot_ends, prepend=0)
        untagged = np.asarray([not self.pack.clips.tags[clip] for clip in self.clips])
        bare = float(slots[untagged].sum() / slots.sum())
        return bare + (1 - bare) * self.null_share

    def item(self, index: int) -> Item:
        """Item number `index` >= 0 of the endless stream; epoch = index // slots."""
        epoch, place = divmod(index, self.slots)
        slot = keyed.permute(place, self.slots, "slots", self.seed, self.split, epoch)
        number = int(np.searchsorted(self._slot_ends, slot, side="right"))
        # The overhang folds back onto the true start and the true end, so that both are seen often.
        room, overhang = self._steps[number] - (self.window + 1), self.window // 8
        start = 0
        if room > 0:
            start = keyed.below(room + 2 * overhang + 1, "start", self.seed, self.split, index) - overhang
            start = min(max(start, 0), room)
        clip = int(self.clips[number])
        tags = tuple(
            tag
            for tag in self.pack.clips.tags[clip]
            if keyed.uniform("tag", self.seed, self.split, index, tag) >= self.tag_dropout
        )
        keep = keyed.uniform("null", self.seed, self.split, index) >= self.null_share
        return Item(clip, start, tags, keep and bool(tags))

    def batch(self, indices: Sequence[int]) -> Batch:
        """The items of these numbers."""
        return self.collate([self.item(index) for index in indices])

    def step(
        self, step: int, micro: int = 0, *, batch_size: int, accumulate: int = 1, rank: int = 0, world: int = 1
    ) -> Batch:
        """Rank's part of micro-batch `micro` of optimizer step `step`, both from 0.

        `batch_size` counts the items of one micro-batch over all ranks; rank r has the r-th of `world` equal runs of
        it, so that the ranks' batches, one after another, are the batch of a single device.
        """
        if batch_size % world:
            raise ValueError(f"a batch of {batch_size} cannot be shared equally by {world} ranks")
        first = (step * accumulate + micro) * batch_size
        share = batch_size // world
        return self.batch(range(first + rank * share, first + (rank + 1) * share))

    def fixed(self, n: int) -> list[Item]:
        """Up to `n` windows for evaluation: the same for every seed, with all tags, no target in two of them."""
        tiles = [
            (int(clip), start)
            for clip, steps in zip(self.clips, self._steps, strict=True)
            for start in range(0, max(1, steps - 1), self.window)
        ]
        places = sorted(keyed.permute(place, len(tiles), "fixed", self.split) for place in range(min(n, len(tiles))))
        return [
            Item(clip, start, tuple(tags := self.pack.clips.tags[clip]), bool(tags))
            for clip, start in (tiles[place] for place in places)
        ]

    def targets(self, items: Sequence[Item]) -> list[list[tuple[int, int, int]]]:
        """For each book, the spans (clip, first frame, last frame) whose codes are the targets of these windows.

        Rows start + 1 .. start + window are targets, and books are staggered, so each has spans of its own.
        """
        stride, spans_K = self.pattern.stride, []
        for delay in self.pattern.delays:
            spans = []
            for item in items:
                first = max(0, -((delay - item.start) // stride))
                last = min(int(self.pack.clips.frames[item.clip]), (item.start + self.window - 1 - delay) // stride + 1)
                if first < last:
                    spans.append((item.clip, first, last))
            spans_K.append(spans)
        return spans_K

    def collate(self, items: Sequence[Item]) -> Batch:
        """Read the windows of `items`."""
        vocabulary = self.pack.tag_vocabulary
        grids = [self._grid(item) for item in items]
        rows = [tagging.multi_hot(item.tags, vocabulary) for item in items]
        keep = [item.keep and bool(row.any()) for item, row in zip(items, rows, strict=True)]
        return Batch(
            grid_BSK=torch.from_numpy(np.stack(grids)),
            tags_BG=torch.from_numpy(np.stack(rows)),
            keep_B=torch.tensor(keep, dtype=torch.bool),
            items=[(item.clip, item.start) for item in items],
        )

    def _grid(self, item: Item) -> np.ndarray:
        frames = int(self.pack.clips.frames[item.clip])
        return window(
            lambda first, last: self.pack.read(item.clip, first, last),
            frames,
            self.pattern,
            self.specials,
            item.start,
            self.window + 1,
            self.ends,
        )

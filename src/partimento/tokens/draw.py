"""Windows by key: which clip, which crop, which tags survive, all from (seed, index) and nothing else.

There is no state: item number i is the same on every machine, for any number of ranks, before and after a resume.
`places` says where windows lie; here their codes are gathered, verified, laid out, and their tags chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from partimento import keyed
from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging
from partimento.tokens.gather import gather, id_dtype
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern, arrange
from partimento.tokens.places import Place, Places
from partimento.tokens.select import Selection
from partimento.tokens.spec import Specials
from partimento.tokens.tagtable import TagTable, tag_table
from partimento.tokens.text import Words

_REDRAWS = 100
_PART = 64  # items that are laid out together: what they need stays in the processor's cache, and in malloc's hands


class Item(NamedTuple):
    """One window: rows [start, start + window + 1) of a clip's grid. Without `keep` it has the null condition. One that
    is `turned` is learned from sound to words."""

    clip: int
    start: int
    tags: tuple[str, ...]
    keep: bool
    caption: str = ""
    turned: bool = False

    @property
    def words(self) -> Words:
        return Words(self.tags, self.caption)


@dataclass(frozen=True)
class Batch:
    """grid_BSK int16, or int32 where the ids need it, on the host, with S = window + 1 rows (inputs are rows :-1,
    targets rows 1:), tags_BG float32 multi-hot over the tag vocabulary, keep_B bool (False: the null condition), items
    (clip, start), the words of each item, for models that read text, and turned_B bool (True: from sound to words)."""

    grid_BSK: Tensor
    tags_BG: Tensor
    keep_B: Tensor
    items: list[tuple[int, int]]
    words_B: list[Words]
    turned_B: Tensor

    @property
    def null_share(self) -> float:
        """Realised share of items without a condition."""
        return 1 - float(self.keep_B.float().mean())


class Draw:
    """Draws windows of `window` steps (inputs) from one split of a pack, `begin_share` of them at the clip's beginning.

    Of each item's tags `tag_dropout` are dropped one by one, the rest is shuffled (`tag_shuffle`) and cut to
    `tag_limit` (`tags.augment`); `null_share` of the items lose their condition whole. An item without tags (none
    given, or all dropped) has keep False as well: what has no condition gets the null condition, never an empty sum.
    `words` says what there is to a condition: "tags", "caption" (the tags are not told then) or "both"; None is for
    models that know tags by their column only. `caption_dropout` of the captions are dropped from items with tags.
    `turned_share` of the items that have words are to be learned from sound to words.
    Clips end with EOS where the specials have one. A clip shorter than the window is followed by PAD.

    `selection` says which clips of the split may be drawn, and have a say in the vocabulary of tags; all by default.

    A damaged clip is an error, or, where the pack was opened with a `corrupt_budget`, its items are drawn again (the
    attempt is part of the key, so every rank finds the same replacement) and the error is kept in `corrupt`.

    Raises PACK007 where the window is longer than every clip of the pack, PACK008 where the split is empty, TAGS003 and
    TAGS008 where the selection fails; drawing raises PACK004 to PACK006 (damage), PACK042 (more than the budget bears)
    and PACK050 (nothing whole to draw from).
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
        begin_share: float = 0.0,
        null_share: float = 0.0,
        tag_dropout: float = 0.0,
        tag_shuffle: bool = False,
        tag_limit: int | None = None,
        selection: Selection | None = None,
        words: Literal["tags", "caption", "both"] | None = None,
        caption_dropout: float = 0.0,
        turned_share: float = 0.0,
    ) -> None:
        self.pack, self.pattern, self.specials = pack, pattern, specials
        self.split, self.window, self.seed = split, window, seed
        self.null_share = null_share
        self.tag_dropout, self.tag_shuffle, self.tag_limit = tag_dropout, tag_shuffle, tag_limit
        self.words, self.caption_dropout, self.turned_share = words, caption_dropout, turned_share
        self.ends = specials.eos is not None
        self.selection = selection
        self.clips = self._of_split(split)
        longest = pattern.steps(int(pack.clips.frames.max()), self.ends) - 1
        if window > longest:
            raise PartimentoError(
                "PACK007",
                f"a window of {window} steps is longer than every clip",
                where=str(pack.path),
                why=f"the longest clip fills {longest} steps ({pack.spec.seconds(int(pack.clips.frames.max())):.1f} s)",
                next=f"set data.window to {longest} or less, and the windows of train.stages",
            )
        self._places = Places(
            self.clips,
            pack.clips.frames,
            pattern,
            ends=self.ends,
            window=window,
            seed=seed,
            split=split,
            begin_share=begin_share,
        )

    def _of_split(self, split: str) -> NDArray[np.int32]:
        clips = self.pack.split(split) if self.selection is None else self.selection.clips(self.pack, split)
        return clips.astype(np.int32)

    @property
    def slots(self) -> int:
        """Windows in an epoch."""
        return self._places.slots

    @property
    def corrupt(self) -> list[PartimentoError]:
        """The damage that was met so far, one error a clip; its length is what the pack's budget limits."""
        return self.pack.corrupt

    @property
    def expected_null_share(self) -> float:
        """Share of the items that have the null condition, in the long run: dropped, or of a clip without words.

        (Items that lose all their tags one by one to tag_dropout come on top.)
        """
        slots = self._places.slots_each()
        bare_C = np.ones(len(self.clips), dtype=bool)
        if self.words != "caption":
            bare_C &= self._tags.counts(self.clips) == 0
        if self.words in ("caption", "both"):
            captions = self.pack.clips.caption.arrow.take(pa.array(self.clips))
            bare_C &= ~pc.greater(pc.fill_null(pc.utf8_length(captions), 0), 0).to_numpy()
        bare = float(slots[bare_C].sum() / slots.sum())
        return bare + (1 - bare) * self.null_share

    @cached_property
    def _tags(self) -> TagTable:
        return tag_table(self.pack.clips)

    def places(self, indices: ArrayLike) -> Place:
        """(clips, starts), int64, of the items of these numbers (at least 0) of the endless stream; epoch = number //
        slots. Nothing is read: a damaged clip is still in its place."""
        return self._places.at(np.asarray(indices, dtype=np.int64))

    def _whole_places(self, index_B: NDArray[np.int64]) -> Place:
        """Places of clips whose codes are whole: those of damaged clips are drawn again."""
        clip_B, start_B = self.places(index_B)
        whole_B = self.pack.ensure(clip_B)
        for attempt in range(1, _REDRAWS + 1):
            if whole_B.all():
                return clip_B, start_B
            broken = np.flatnonzero(~whole_B)
            clip_B[broken], start_B[broken] = self._places.define(index_B[broken], attempt)
            whole_B[broken] = self.pack.ensure(clip_B[broken])
        raise self._nothing_whole(f"{_REDRAWS} draws in a row met damaged clips only")

    def _nothing_whole(self, message: str) -> PartimentoError:
        return PartimentoError(
            "PACK050",
            message,
            where=str(self.pack.path),
            why=f"{len(self.corrupt)} of the clips that were read are damaged",
            next=f"partimento pack repair {self.pack.path}",
        )

    def item(self, index: int) -> Item:
        """Item number `index` of the endless stream."""
        return self.items([index])[0]

    def items(self, indices: ArrayLike) -> list[Item]:
        """The items of these numbers. Their clips are verified."""
        index_B = np.asarray(indices, dtype=np.int64)
        clip_B, start_B = self._whole_places(index_B)
        keep_B = keyed.uniform_many(index_B, "null", self.seed, self.split) >= self.null_share
        turned_B = keyed.uniform_many(index_B, "turned", self.seed, self.split) < self.turned_share
        made = []
        columns = (index_B.tolist(), clip_B.tolist(), start_B.tolist(), keep_B.tolist(), turned_B.tolist())
        for index, clip, start, keep, turned in zip(*columns, strict=True):
            tags, caption = self._told(clip)
            tags = self._augmented(tags, index)
            if caption and tags and self.caption_dropout:
                kept = keyed.uniform("caption", self.seed, self.split, index) >= self.caption_dropout
                caption = caption if kept else ""
            told = bool(tags or caption)
            made.append(Item(clip, start, tags, keep and told, caption, turned and told))
        return made

    def _told(self, clip: int) -> tuple[tuple[str, ...], str]:
        """All that there is to tell of a clip: tags and caption."""
        tags = self._tags.of(clip) if self.words != "caption" else ()
        return tags, (self.pack.clips.caption[clip] or "").strip() if self.words in ("caption", "both") else ""

    def words_of(self, clip: int) -> Words:
        """All that there is to tell of a clip."""
        return Words(*self._told(clip))

    def _augmented(self, tags: tuple[str, ...], index: int) -> tuple[str, ...]:
        return tagging.augment(
            tags,
            "tags",
            self.seed,
            self.split,
            index,
            dropout=self.tag_dropout,
            shuffle=self.tag_shuffle,
            limit=self.tag_limit,
        )

    def batch(self, indices: ArrayLike) -> Batch:
        """The items of these numbers, laid out."""
        return self.collate(self.items(indices))

    def windows(self, indices: ArrayLike) -> NDArray[np.uint16]:
        """[B, window, K] codes without a pattern: frames [start, start + window) of the items' clips, then PAD.

        For models that take frames. With the pattern "parallel" and specials without EOS no window reaches past the end
        of a clip that is long enough.
        """
        clip_B, start_B = self._whole_places(np.asarray(indices, dtype=np.int64))
        return gather(self.pack, clip_B, start_B, self.window, self.specials, ends=False, dtype=np.uint16)

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
        """Up to `n` windows for evaluation: the same for every seed, with all tags, no target in two of them.

        Those of damaged clips (within the pack's budget) are left out.
        """
        clip_N, start_N = self._places.tiles(n)
        whole_N = self.pack.ensure(clip_N)
        if not whole_N.any():
            raise self._nothing_whole(f"all clips to evaluate on, of the split {self.split!r}, are damaged")
        places = zip(clip_N[whole_N].tolist(), start_N[whole_N].tolist(), strict=True)
        told = ((clip, start, *self._told(clip)) for clip, start in places)
        return [Item(clip, start, tags, bool(tags or caption), caption) for clip, start, tags, caption in told]

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
        """Read the windows of `items`. A damaged clip among them raises PACK004 to PACK006."""
        clip_B = np.asarray([item.clip for item in items], dtype=np.int64)
        start_B = np.asarray([item.start for item in items], dtype=np.int64)
        for clip in clip_B[~self.pack.ensure(clip_B)]:
            self.pack.read(int(clip))  # raises what is wrong with it
        grid_BSK = np.empty((len(items), self.window + 1, self.pattern.codebooks), dtype=id_dtype(self.specials))
        for first in range(0, len(items), _PART):
            part = slice(first, first + _PART)
            grid_BSK[part] = self._grids(clip_B[part], start_B[part])
        tags_BG = np.zeros((len(items), len(self.tag_vocabulary)), dtype=np.float32)
        ones = [(row, self._column[tag]) for row, item in enumerate(items) for tag in item.tags if tag in self._column]
        if ones:
            tags_BG[tuple(zip(*ones, strict=True))] = 1
        keep_B = np.asarray([item.keep for item in items], dtype=bool)
        if self.words is None:
            keep_B &= tags_BG.any(axis=1)
        return Batch(
            grid_BSK=torch.from_numpy(grid_BSK),
            tags_BG=torch.from_numpy(tags_BG),
            keep_B=torch.from_numpy(keep_B),
            items=[(item.clip, item.start) for item in items],
            words_B=[item.words for item in items],
            turned_B=torch.tensor([item.turned for item in items], dtype=torch.bool),
        )

    def _grids(self, clip_B: NDArray[np.int64], start_B: NDArray[np.int64]) -> NDArray[Any]:
        first_B, count = self.pattern.span(start_B, self.window + 1)
        dtype = id_dtype(self.specials)
        frames_BNK = gather(self.pack, clip_B, first_B, count, self.specials, ends=self.ends, dtype=dtype)
        return arrange(frames_BNK, start_B, self.window + 1, self.pattern, self.specials)

    @cached_property
    def tag_vocabulary(self) -> list[str]:
        """The columns of `tags_BG`: the tags of the selected train clips, whatever the split that is drawn; sorted."""
        return self._tags.vocabulary(self.clips if self.split == "train" else self._of_split("train"))

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.tag_vocabulary)}

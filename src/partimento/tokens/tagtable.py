"""The tags of a pack as numbers: what a draw looks up for each item, without a Python object for each clip."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from partimento.tokens.clips import Clips

_CHUNK = 1 << 22
_tables: WeakKeyDictionary[Clips, TagTable] = WeakKeyDictionary()


class TagTable:
    """Clip i has the tags names[ids[ends[i - 1] : ends[i]]], in the order of the clip table."""

    def __init__(self, clips: Clips) -> None:
        numbers: dict[str, int] = {}
        parts: list[NDArray[np.uint32]] = []
        ends_C = np.empty(len(clips), dtype=np.int64)
        at = total = 0
        for batch in clips.batches(["tags"]):
            lists = batch.column(0)
            values = lists.flatten()
            if not isinstance(values, pa.DictionaryArray):
                values = values.dictionary_encode()
            known = [numbers.setdefault(name, len(numbers)) for name in values.dictionary.to_pylist()]
            parts.append(np.asarray(known, dtype=np.uint32)[values.indices.to_numpy()])
            counts = lists.value_lengths().to_numpy()
            ends_C[at : at + len(counts)] = total + np.cumsum(counts)
            at, total = at + len(counts), total + len(parts[-1])
        small = np.uint16 if len(numbers) <= 2**16 else np.uint32
        self.names = list(numbers)
        self.ids = np.concatenate([part.astype(small) for part in parts]) if parts else np.empty(0, dtype=small)
        self.ends = ends_C.astype(np.uint32) if total < 2**32 else ends_C

    def of(self, clip: int) -> tuple[str, ...]:
        """The tags of one clip."""
        names, first = self.names, int(self.ends[clip - 1]) if clip else 0
        return tuple([names[number] for number in self.ids[first : int(self.ends[clip])].tolist()])

    def counts(self, clips: NDArray[np.integer]) -> NDArray[np.int64]:
        """How many tags each of these clips has."""
        firsts = np.where(clips > 0, self.ends[clips - 1], 0)
        return self.ends[clips].astype(np.int64) - firsts

    def vocabulary(self, clips: NDArray[np.integer]) -> list[str]:
        """The tags that these clips have, sorted."""
        used = np.zeros(len(self.names), dtype=bool)
        chosen_C = np.zeros(len(self.ends), dtype=bool)
        chosen_C[clips] = True
        every_C = self.counts(np.arange(len(self.ends)))
        for first in range(0, len(chosen_C), _CHUNK):
            part = slice(first, first + _CHUNK)
            low, high = int(self.ends[first - 1]) if first else 0, int(self.ends[part][-1])
            used[self.ids[low:high][np.repeat(chosen_C[part], every_C[part])]] = True
        return sorted(name for name, is_used in zip(self.names, used.tolist(), strict=True) if is_used)


def tag_table(clips: Clips) -> TagTable:
    """The table of these clips, made once."""
    if clips not in _tables:
        _tables[clips] = TagTable(clips)
    return _tables[clips]

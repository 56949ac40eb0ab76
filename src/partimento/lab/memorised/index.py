"""The samples as an index: their n-grams of frames sorted, behind a filter that most of a pack does not pass.

The samples are small and the pack is large, so the samples are indexed and the pack streams past. What the filter lets
through is looked up in the sorted n-grams; what is found there is a pair of places, one of a sample and one of a clip,
and every pair is followed to both sides for as long as the frames are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from partimento.lab.memorised.frames import Hashes, Surprise, ngrams, symbols

FILTER_BITS = 24  # of the filter's table, a byte each: 16 MB
_STRIDE = 8  # frames that are compared at once where a run is followed

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Whole clips of a shard, back to back; clip i is rows starts[i] to starts[i + 1]. `wanted_C`: those that are
    searched (the training split); the others lie between them and are passed over."""

    clips: Places  # numbers in the pack
    codes_NK: NDArray[np.uint16]
    starts: Places
    wanted_C: NDArray[np.bool_]


@dataclass(frozen=True)
class Runs:
    """Equal runs of frames, one an element: frames sample..sample + frames - 1 of the samples (all back to back)
    against clip.. of the block; `informative` of them inform."""

    sample: Places
    clip: Places
    frames: Places
    informative: Places


class Queries:
    """Samples [T, K] back to back; sample i is frames starts[i] to starts[i + 1]."""

    def __init__(self, samples: list[NDArray[np.uint16]], surprise: Surprise) -> None:
        self.codes_NK = np.concatenate(samples)
        self.starts = np.cumsum([0, *map(len, samples)]).astype(np.int64)
        self.surprise = surprise

    def __len__(self) -> int:
        return len(self.starts) - 1

    def index(self, books: int, seed: int, most_places: int | None = None) -> Index:
        return Index(self, books, seed, most_places)


class Index:
    """The n-grams of `seed` frames of the first `books` books of all samples. Of those that stand in more than
    `most_places` places none is looked up; `crowded` counts them."""

    def __init__(self, queries: Queries, books: int, seed: int, most_places: int | None = None) -> None:
        self.books, self.seed = books, seed
        self.starts = queries.starts
        self.symbol_N = symbols(queries.codes_NK, books)
        self.informs_N = queries.surprise.informs(queries.codes_NK, queries.starts[:-1], books)
        self._informed_N = np.concatenate([[0], np.cumsum(self.informs_N)])
        hashes, places = self._seeds()
        order = np.argsort(hashes, kind="stable")
        hashes, places = hashes[order], places[order]
        self.crowded = 0
        if most_places is not None:
            _, size = np.unique(hashes, return_counts=True)
            kept = np.repeat(size <= most_places, size)
            self.crowded = int(np.count_nonzero(size > most_places))
            hashes, places = hashes[kept], places[kept]
        self._hashes, self._places = hashes, places
        self._is_seed_N = np.zeros(len(self.symbol_N), dtype=bool)
        self._is_seed_N[places] = True

    def _seeds(self) -> tuple[Hashes, Places]:
        """Hashes and places of n-grams that lie within one sample and of which a quarter of the frames inform."""
        hash_N = ngrams(self.symbol_N, self.seed)
        places = np.arange(len(hash_N))
        informed = self._informed_N[self.seed :] - self._informed_N[: len(hash_N)]
        inside = places + self.seed <= self._end_of(places)
        good = inside & (informed >= max(1, self.seed // 4))
        return hash_N[good], places[good]

    @cached_property
    def _filter(self) -> NDArray[np.bool_]:
        table = np.zeros(1 << FILTER_BITS, dtype=bool)
        table[self._hashes >> np.uint64(64 - FILTER_BITS)] = True
        return table

    def owner(self, places: Places) -> Places:
        """The number of the sample of each place."""
        return np.searchsorted(self.starts, places, side="right") - 1

    def _end_of(self, places: Places) -> Places:
        return self.starts[self.owner(places) + 1]

    def _hits(self, block: Block) -> tuple[Hashes, Places, Places, Places]:
        """(symbols of the block, its places that have a seed's n-gram, and the range of that seed's places)."""
        symbol_N = symbols(block.codes_NK, self.books)
        hash_N = ngrams(symbol_N, self.seed)
        at = np.flatnonzero(self._filter[hash_N >> np.uint64(64 - FILTER_BITS)])
        row = np.searchsorted(block.starts, at, side="right") - 1
        at = at[block.wanted_C[row] & (at + self.seed <= block.starts[row + 1])]
        low = np.searchsorted(self._hashes, hash_N[at], side="left")
        high = np.searchsorted(self._hashes, hash_N[at], side="right")
        found = high > low
        return symbol_N, at[found], low[found], high[found]

    def count(self, block: Block) -> int:
        """Pairs of places that `runs` would follow."""
        _, _, low, high = self._hits(block)
        return int((high - low).sum())

    def runs(self, block: Block) -> Runs:
        """All maximal runs of at least `seed` equal frames between the samples and the wanted clips of the block."""
        symbol_N, at, low, high = self._hits(block)
        size = high - low
        clip = np.repeat(at, size)
        within = np.arange(len(clip)) - np.repeat(np.cumsum(size) - size, size)
        sample = self._places[np.repeat(low, size) + within]
        # A run is followed from its first seed: not from a pair whose left neighbours are a seed of the same run.
        left = np.maximum(clip - 1, 0), np.maximum(sample - 1, 0)
        inner = (symbol_N[left[0]] == self.symbol_N[left[1]]) & self._is_seed_N[left[1]]
        begins = np.zeros(len(symbol_N) + 1, dtype=bool), np.zeros(len(self.symbol_N) + 1, dtype=bool)
        begins[0][block.starts], begins[1][self.starts] = True, True
        inner &= ~begins[0][clip] & ~begins[1][sample]
        clip, sample = clip[~inner], sample[~inner]
        row, owner = np.searchsorted(block.starts, clip, side="right") - 1, self.owner(sample)
        first, last = block.starts[row], block.starts[row + 1]
        begin, end = self.starts[owner], self.starts[owner + 1]
        ahead = _followed(symbol_N, self.symbol_N, clip, sample, np.minimum(last - clip, end - sample), 1)
        behind = _followed(symbol_N, self.symbol_N, clip - 1, sample - 1, np.minimum(clip - first, sample - begin), -1)
        real = ahead >= self.seed  # else two n-grams of one hash
        clip, sample, frames = (clip - behind)[real], (sample - behind)[real], (ahead + behind)[real]
        # Frames that do not inform part the seeds of a run, which then was followed from each of the parts.
        _, once = np.unique(sample * len(symbol_N) + clip, return_index=True)
        clip, sample, frames = clip[once], sample[once], frames[once]
        return Runs(sample, clip, frames, self._informed_N[sample + frames] - self._informed_N[sample])


def _followed(one_N: Hashes, two_N: Hashes, one: Places, two: Places, room: Places, way: int) -> Places:
    """For each pair of places, how many frames agree from there on, `room` at most, forwards or backwards."""
    found = np.zeros(len(one), dtype=np.int64)
    going = np.flatnonzero(room > 0)
    ramp = way * np.arange(_STRIDE)
    while len(going):
        done = found[going]
        a = np.clip((one[going] + way * done)[:, None] + ramp, 0, len(one_N) - 1)
        b = np.clip((two[going] + way * done)[:, None] + ramp, 0, len(two_N) - 1)
        equal = one_N[a] == two_N[b]
        equal &= np.arange(_STRIDE) < (room[going] - done)[:, None]
        more = np.where(equal.all(axis=1), _STRIDE, equal.argmin(axis=1))
        found[going] += more
        going = going[more == _STRIDE]
    return found

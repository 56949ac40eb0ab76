"""The training split streams past the samples once: for each sample its longest runs, and where a near-copy may lie.

Three levels of strictness: the first book alone, the first two, all. Seeds of each level are as short as the data
allow: the length is chosen on a few blocks of the pack so that some millions of pairs are followed in all, and no run
of that many informative frames is missed. Runs of two books also vote for diagonals of clips (W. Pearson and D. Lipman,
"Improved tools for biological sequence comparison", PNAS 1988): the bands with the most of them are aligned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.lab.memorised import align
from partimento.lab.memorised.align import Aligned, Place
from partimento.lab.memorised.index import Block, Index, Places, Queries, Runs
from partimento.progress import Progress, Quiet
from partimento.tokens.pack import Pack

BLOCK = 2**18  # frames that are looked at together
SEEDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
MOST_PAIRS = 2_000_000  # of places that a level follows in the whole pack, as far as the trial blocks can tell
CROWD = 16  # places of the samples
TRIALS, TRIAL = 8, 2**14  # places that the seeds are chosen on, and about how many frames each
BAND = 16  # frames: votes of two neighbouring bands count together, and half a band on each side is aligned with them
WIDTH = 3 * BAND
CANDIDATES = 4  # bands of each sample that are aligned
LONGEST = 1024  # informative frames; runs of more are counted with these in a spectrum
_CELLS = 1 << 22  # frames of samples that are aligned at once
_PADDING = np.uint64(2**63)  # shares no book with NOTHING or with a frame


@dataclass(frozen=True)
class Copied:
    """A run of equal frames: from frame `sample_first` of the sample, and `clip_first` of clip number `clip`."""

    sample_first: int
    clip: int
    clip_first: int
    frames: int
    informative: int


@dataclass(frozen=True)
class Near:
    """The best local alignment of a sample with any of the clips that it was held against."""

    clip: int
    aligned: Aligned


@dataclass(frozen=True)
class Found:
    """Of each sample: `runs[books]` the longest run of each level (None: none of `seeds[books]` frames), the best
    near-copy. `spectrum_QL[books][q, l]`: how many runs of l informative frames (the last: or more) sample q has.
    `crowded[books]` n-grams stood in too many places to be seeds; `frames` of `clips` clips were read."""

    runs: dict[int, list[Copied | None]]
    spectrum_QL: dict[int, NDArray[np.int64]]
    near: list[Near | None]
    seeds: dict[int, int]
    crowded: dict[int, int]
    clips: int
    frames: int


def levels(books: int) -> list[int]:
    """How many of the books are compared: the first, the first two, all."""
    return sorted({1, min(2, books), books})


def search(pack: Pack, train: NDArray[np.int64], queries: Queries, progress: Progress | None = None) -> Found:
    """Hold all samples against the clips `train` of the pack. Raises what reading a damaged pack does (PACK004 to 006).

    Memory: the blocks in work and the samples; the pack is mapped shard by shard and let go of again.
    """
    progress = progress or Quiet()
    wanted_C = np.zeros(len(pack.clips), dtype=bool)
    wanted_C[train] = True
    spans = _spans(pack, wanted_C)
    indexes = {books: _index(pack, queries, wanted_C, spans, books) for books in levels(pack.spec.codebooks)}
    near_books = min(2, pack.spec.codebooks)
    best = {books: _Best(len(queries)) for books in indexes}
    votes = _Votes(len(queries))
    done, total = 0, sum(frames for _, _, _, frames in spans)
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as workers:
        for shard, same in _by_shard(spans):
            blocks = workers.map(partial(_searched, pack, wanted_C, indexes), same)
            for (clips, starts, found), span in zip(blocks, same, strict=True):
                for books, runs in found.items():
                    row = np.searchsorted(starts, runs.clip, side="right") - 1
                    owner = indexes[books].owner(runs.sample)
                    local = runs.sample - queries.starts[owner]
                    best[books].add(owner, runs, local, clips[row], runs.clip - starts[row])
                    if books == near_books:
                        votes.add(owner, clips[row], runs.clip - starts[row] - local, runs.informative)
                done += span[3]
                progress.update(done, total)
            pack.release(shard)
    longest = {
        books: [_exact(pack, queries, number, one, books) for number, one in enumerate(best[books].found())]
        for books in indexes
    }
    near = _aligned(pack, queries, indexes[near_books], votes.found())
    return Found(
        runs=longest,
        spectrum_QL={books: one.spectrum_QL for books, one in best.items()},
        near=near,
        seeds={books: index.seed for books, index in indexes.items()},
        crowded={books: index.crowded for books, index in indexes.items()},
        clips=len(train),
        frames=int(np.asarray(pack.clips.frames[train], dtype=np.int64).sum()),
    )


Span = tuple[int, int, int, int]
"""Shard, first clip, last clip + 1, frames."""


def _spans(pack: Pack, wanted_C: NDArray[np.bool_]) -> list[Span]:
    """Runs of whole clips of about BLOCK frames; those without a wanted clip are left out."""
    spans = []
    for shard, first in pack.shard_starts.items():
        last = first + pack.shards[shard].clips
        ends = np.cumsum(np.asarray(pack.clips.frames[first:last], dtype=np.int64))
        at, passed = 0, 0
        while at < last - first:
            end = max(at + 1, int(np.searchsorted(ends, passed + BLOCK, side="right")))
            if wanted_C[first + at : first + end].any() and ends[end - 1] > passed:
                spans.append((shard, first + at, first + end, int(ends[end - 1]) - passed))
            at, passed = end, int(ends[end - 1])
    return spans


def _by_shard(spans: list[Span]) -> Iterator[tuple[int, list[Span]]]:
    shards = list(dict.fromkeys(span[0] for span in spans))
    for shard in shards:
        yield shard, [span for span in spans if span[0] == shard]


def _block(pack: Pack, wanted_C: NDArray[np.bool_], span: Span) -> Block:
    shard, first, last, frames = span
    clips = np.arange(first, last)
    pack.ensure(clips)
    begin = int(pack.clips.first_frame[first])
    starts = np.append(np.asarray(pack.clips.first_frame[first:last], dtype=np.int64) - begin, frames)
    return Block(clips, pack.shard_codes(shard)[begin : begin + frames], starts, wanted_C[first:last])


def _index(pack: Pack, queries: Queries, wanted_C: NDArray[np.bool_], spans: list[Span], books: int) -> Index:
    """The index with the shortest seeds that leave no more than MOST_PAIRS to follow. Where none does (clips that all
    repeat one passage), the longest, without the n-grams that crowd."""
    chosen = {keyed.permute(number, len(spans), "memorised trial") for number in range(min(TRIALS, len(spans)))}
    tried = [_part(pack, spans[number]) for number in sorted(chosen)]
    blocks = [_block(pack, wanted_C, span) for span in tried]
    share = sum(span[3] for span in tried) / sum(span[3] for span in spans)
    for seed in SEEDS:
        index = queries.index(books, seed)
        if sum(map(index.count, blocks)) <= MOST_PAIRS * share:
            return index
    return queries.index(books, SEEDS[-1], CROWD)


def _part(pack: Pack, span: Span) -> Span:
    """The first clips of a span, about TRIAL frames."""
    shard, first, last, _ = span
    ends = np.cumsum(np.asarray(pack.clips.frames[first:last], dtype=np.int64))
    clips = min(last - first, int(np.searchsorted(ends, TRIAL)) + 1)
    return shard, first, first + clips, int(ends[clips - 1])


def _searched(
    pack: Pack, wanted_C: NDArray[np.bool_], indexes: dict[int, Index], span: Span
) -> tuple[Places, Places, dict[int, Runs]]:
    block = _block(pack, wanted_C, span)
    return block.clips, block.starts, {books: index.runs(block) for books, index in indexes.items()}


class _Best:
    """The longest run of each sample: most informative frames, then most frames; of equals the first in the pack. And
    how many runs it has of each length."""

    def __init__(self, samples: int) -> None:
        self._rows: list[Copied | None] = [None] * samples
        self.spectrum_QL = np.zeros((samples, LONGEST + 1), dtype=np.int64)

    def add(self, owner: Places, runs: Runs, local: Places, clip: Places, at: Places) -> None:
        cells = owner * (LONGEST + 1) + np.minimum(runs.informative, LONGEST)
        self.spectrum_QL += np.bincount(cells, minlength=self.spectrum_QL.size).reshape(self.spectrum_QL.shape)
        most_Q = np.zeros(len(self._rows), dtype=np.int64)
        np.maximum.at(most_Q, owner, runs.informative)
        longest = np.flatnonzero(runs.informative == most_Q[owner])
        order = longest[np.lexsort((at[longest], clip[longest], -runs.frames[longest], owner[longest]))]
        _, first = np.unique(owner[order], return_index=True)
        for place in order[first].tolist():
            one = Copied(*(int(a[place]) for a in (local, clip, at, runs.frames, runs.informative)))
            known = self._rows[int(owner[place])]
            if known is None or (one.informative, one.frames) > (known.informative, known.frames):
                self._rows[int(owner[place])] = one

    def found(self) -> list[Copied | None]:
        return self._rows


class _Votes:
    """For each sample the CANDIDATES bands of diagonals whose runs have the most informative frames."""

    def __init__(self, samples: int) -> None:
        self._rows: list[list[tuple[int, int, int]]] = [[] for _ in range(samples)]

    def add(self, owner: Places, clip: Places, diagonal: Places, votes: Places) -> None:
        if not len(owner):
            return
        low, least = int(clip.min()), int(diagonal.min()) // BAND
        clips, bands = int(clip.max()) - low + 1, int(diagonal.max()) // BAND - least + 2
        cell = (owner * clips + clip - low) * bands + diagonal // BAND - least
        cell, back = np.unique(cell, return_inverse=True)
        sums = np.bincount(back, weights=votes).astype(np.int64)
        owner, band = cell // bands // clips, cell % bands + least
        clip = cell // bands % clips + low
        next_is = (owner[1:] == owner[:-1]) & (clip[1:] == clip[:-1]) & (band[1:] == band[:-1] + 1)
        sums[:-1] += np.where(next_is, sums[1:], 0)  # the right side is read before the left is written
        order = np.lexsort((band, clip, -sums, owner))
        heads = np.searchsorted(owner[order], np.unique(owner))
        for head in heads.tolist():
            for place in order[head : head + CANDIDATES].tolist():
                number = int(owner[place])
                if number != owner[order[head]]:
                    break
                self._rows[number].append((int(sums[place]), int(clip[place]), int(band[place])))
        for number in np.unique(owner).tolist():
            self._rows[number] = sorted(self._rows[number], key=lambda row: (-row[0], *row[1:]))[:CANDIDATES]

    def found(self) -> list[Place]:
        return [
            Place(number, clip, band * BAND - BAND // 2)
            for number, rows in enumerate(self._rows)
            for _, clip, band in rows
        ]


def _exact(pack: Pack, queries: Queries, number: int, run: Copied | None, books: int) -> Copied | None:
    """The run as the codes themselves are: a frame of more than four books was compared by its hash."""
    if run is None:
        return None
    begin = int(queries.starts[number]) + run.sample_first
    ours = queries.codes_NK[begin : begin + run.frames, :books]
    theirs = pack.read(run.clip, run.clip_first, run.clip_first + run.frames)[:, :books]
    if not np.array_equal(ours, theirs):
        raise ValueError(f"two frames of {books} books have one hash, in clip {run.clip}")
    return run


def _aligned(pack: Pack, queries: Queries, index: Index, places: list[Place]) -> list[Near | None]:
    """The best of the bands of each sample, traced back."""
    best: dict[int, tuple[int, Place]] = {}
    for group in _groups(queries, places, _CELLS):
        scores = align.scores(*_laid(pack, queries, index, group))
        for place, score in zip(group, scores.tolist(), strict=True):
            if score > best.get(place.sample, (0, place))[0]:
                best[place.sample] = score, place
    near: list[Near | None] = [None] * len(queries)
    for group in _groups(queries, [place for _, place in best.values()], _CELLS // WIDTH):
        traced = align.trace(*_laid(pack, queries, index, group), [place.low for place in group])
        for place, found in zip(group, traced, strict=True):
            near[place.sample] = None if found is None else Near(place.clip, found)
    return near


def _laid(
    pack: Pack, queries: Queries, index: Index, group: list[Place]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.uint64]]:
    """What `align` takes: frames of the samples, which of them inform, the frames of the clips that they meet."""
    length = max(_length(queries, place.sample) for place in group)
    sample_CT = np.full((len(group), length), _PADDING, dtype=np.uint64)
    informs_CT = np.zeros((len(group), length), dtype=bool)
    clip_CX = np.full((len(group), length + WIDTH - 1), align.NOTHING, dtype=np.uint64)
    for row, place in enumerate(group):
        span = slice(int(queries.starts[place.sample]), int(queries.starts[place.sample + 1]))
        size = span.stop - span.start
        sample_CT[row, :size] = align.heads(queries.codes_NK[span])
        informs_CT[row, :size] = index.informs_N[span]
        first = max(0, place.low)
        last = max(first, min(int(pack.clips.frames[place.clip]), place.low + size + WIDTH - 1))
        clip_CX[row, first - place.low : last - place.low] = align.heads(pack.read(place.clip, first, last))
    return sample_CT, informs_CT, clip_CX


def _length(queries: Queries, number: int) -> int:
    return int(queries.starts[number + 1] - queries.starts[number])


def _groups(queries: Queries, places: list[Place], cells: int) -> Iterator[list[Place]]:
    """Bands of samples of like lengths, so many that their frames are no more than `cells` together."""
    left = sorted(places, key=lambda place: (_length(queries, place.sample), place))
    while left:
        longest = _length(queries, left[-1].sample)
        size = max(1, cells // (longest + WIDTH))
        yield left[-size:]
        left = left[:-size]

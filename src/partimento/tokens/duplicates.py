"""Near-duplicates: clips that share passages, found by fingerprints of their codes.

A fingerprint is the hash of NGRAM successive frames of the two coarsest books. Of each WINDOW successive ones the least
is kept (winnowing; Schleimer, Wilkerson & Aiken 2003): minima of the same passage are the same wherever it stands, so
every passage of NGRAM + WINDOW - 1 frames that two clips have in common has a fingerprint in common, however long the
clips are and however one was cut out of the other. (One MinHash of a whole clip would miss an excerpt: its Jaccard
similarity is no more than the ratio of the lengths.) Clips with common fingerprints are candidates, and each candidate
is verified on all its n-grams. N-grams that hardly move (silence, held sounds) are no fingerprints.

Codes are compared as they are: a copy is found if it was cut at whole frames, or encoded from the same file. The same
recording encoded from another offset within a frame, or after a lossy format, has other codes in part; how much of them
may differ is measured in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.progress import Progress, Quiet
from partimento.tokens.clipwise import Group
from partimento.tokens.pack import Pack

NGRAM = 8
WINDOW = 32
BOOKS = 2
MOVES = 3  # changes of frame that an n-gram needs
MIN_SHARE = 0.25
"""Share of the shorter clip's n-grams from which on two clips are called near-duplicates."""
MIN_GUESS = 0.08  # the same, estimated on fingerprints, for a candidate
NEIGHBOURS = 8  # a fingerprint of many clips links each to so many next ones, so that the number of pairs stays linear
MOST_VERIFIED = 100_000
NONE = np.uint64(2**64 - 1)
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Pair:
    """Two clips (by number) that share `share` of the shorter one's n-grams, `frames` of them; frame t of `second` is
    frame t + `offset` of `first` in most of them."""

    first: int
    second: int
    share: float
    frames: int
    offset: int


@dataclass(frozen=True)
class Found:
    """All verified pairs, most alike first; `groups` are clips that hang together by pairs, largest first.

    `candidates` pairs had fingerprints in common, `unverified` of them were too many to look at. `silent` clips have
    no fingerprint at all (too short, or they do not move)."""

    pairs: list[Pair]
    groups: list[list[int]]
    candidates: int
    unverified: int
    fingerprints: int
    silent: int


class Fingerprints:
    """Collects the fingerprints of clips, group by group; about 2 / (WINDOW + 1) of the frames leave one (16 bytes)."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []
        self._rows: list[NDArray[np.int64]] = []

    def add(self, group: Group) -> None:
        hash_N = ngrams(group.codes_NK, group.starts)
        chosen = _winnow(hash_N)
        least_C = np.minimum.reduceat(hash_N, group.starts[:-1])  # so that a clip shorter than a window has one too
        sizes = np.diff(group.starts)
        chosen |= hash_N == np.repeat(least_C, sizes)
        chosen &= hash_N != NONE
        self._hashes.append(hash_N[chosen])
        self._rows.append(np.repeat(group.rows, sizes)[chosen])

    def collected(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """(hash, row), sorted, each once."""
        if not self._hashes:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        hashes, rows = np.concatenate(self._hashes), np.concatenate(self._rows)
        order = np.lexsort((rows, hashes))
        hashes, rows = hashes[order], rows[order]
        fresh = np.ones(len(hashes), dtype=bool)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
        return hashes[fresh], rows[fresh]


def ngrams(codes_NK: NDArray[np.integer], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """[N]: a hash of the NGRAM frames that begin at each frame, NONE where they leave their clip or hardly move."""
    hash_N = np.zeros(len(codes_NK), dtype=np.uint64)
    for book in range(min(BOOKS, codes_NK.shape[1])):
        hash_N = _mix(hash_N ^ (codes_NK[:, book].astype(np.uint64) + np.uint64(keyed.key("ngram", book) | 1)))
    moves_N = np.zeros(len(hash_N) + 1, dtype=np.int64)
    moves_N[2:] = np.cumsum(hash_N[1:] != hash_N[:-1])
    length = 1
    while length < NGRAM:  # the hash of 2 n frames from those of n
        hash_N[:-length] = _mix(hash_N[:-length] * _ODD + hash_N[length:])
        length *= 2
    moves = np.zeros(len(hash_N), dtype=np.int64)
    inside = max(0, len(hash_N) - NGRAM + 1)
    moves[:inside] = moves_N[NGRAM : NGRAM + inside] - moves_N[1 : 1 + inside]
    left = np.repeat(starts[1:], np.diff(starts)) - np.arange(len(hash_N))  # frames up to the end of the clip
    return np.where((left >= NGRAM) & (moves >= MOVES), np.minimum(hash_N, NONE - np.uint64(1)), NONE)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _winnow(hash_N: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which hashes are the least of some WINDOW successive ones: those that equal the greatest of their windows'
    minima. (Minima and maxima over 2**n places by doubling.)"""
    if len(hash_N) < WINDOW:
        return np.zeros(len(hash_N), dtype=bool)
    least, length = hash_N, 1
    while length < WINDOW:
        least = np.minimum(least[:-length], least[length:])
        length *= 2
    # A hash stands in the windows that begin up to WINDOW - 1 places before it.
    greatest, length = np.pad(least, (WINDOW - 1, WINDOW - 1)), 1
    while length < WINDOW:
        greatest = np.maximum(greatest[:-length], greatest[length:])
        length *= 2
    return greatest == hash_N


def find(pack: Pack, clips: NDArray[np.int64], fingerprints: Fingerprints, progress: Progress | None = None) -> Found:
    """Verified near-duplicates among `clips`, whose fingerprints were collected in this order."""
    hashes, rows = fingerprints.collected()
    size_C = np.bincount(rows, minlength=len(clips))
    first, second, common = _candidates(hashes, rows)
    smaller = np.minimum(size_C[first], size_C[second])
    likely = (common >= MIN_GUESS * smaller) & (common >= np.minimum(2, smaller))
    first, second, guess = first[likely], second[likely], (common / smaller)[likely]
    order = np.lexsort((second, first, -guess))[:MOST_VERIFIED]
    order = order[np.lexsort((second[order], first[order]))]  # neighbours in the pack are read together

    @lru_cache(maxsize=2048)
    def of(row: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        codes_TK = pack.read(int(clips[row]))
        hash_T = ngrams(codes_TK, np.asarray([0, len(codes_TK)]))
        unique, at = np.unique(hash_T, return_index=True)
        return unique[unique != NONE], at[unique != NONE]

    pairs = _verified(first[order], second[order], of, progress or Quiet())
    pairs = [
        Pair(int(clips[pair.first]), int(clips[pair.second]), pair.share, pair.frames, pair.offset) for pair in pairs
    ]
    pairs.sort(key=lambda pair: (-pair.share, -pair.frames, pair.first, pair.second))
    return Found(
        pairs=pairs,
        groups=_groups(pairs),
        candidates=len(guess),
        unverified=len(guess) - len(order),
        fingerprints=len(hashes),
        silent=int((size_C == 0).sum()),
    )


def _candidates(
    hashes: NDArray[np.uint64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(first, second, fingerprints in common) of clips that share any; sorted (hash, row) go in."""
    span = int(rows.max(initial=0)) + 1
    keys = []
    for step in range(1, min(NEIGHBOURS, len(hashes) - 1) + 1):
        same = hashes[step:] == hashes[:-step]
        keys.append(rows[:-step][same] * span + rows[step:][same])
    joined, common = np.unique(np.concatenate(keys) if keys else np.empty(0, dtype=np.int64), return_counts=True)
    return joined // span, joined % span, common


def _verified(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    of: Callable[[int], tuple[NDArray[np.uint64], NDArray[np.int64]]],
    progress: Progress,
) -> list[Pair]:
    pairs = []
    for number, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        (one, one_at), (two, two_at) = of(a), of(b)
        _, in_one, in_two = np.intersect1d(one, two, assume_unique=True, return_indices=True)
        share = len(in_one) / min(len(one), len(two))
        if share >= MIN_SHARE:
            offset = int(np.median(one_at[in_one] - two_at[in_two]))
            pairs.append(Pair(a, b, share, len(in_one), offset))
        progress.update(number + 1, len(first), duplicates=len(pairs))
    return pairs


def _groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """Clips connected by pairs, largest group first."""
    parent: dict[int, int] = {}

    def root(clip: int) -> int:
        while parent.setdefault(clip, clip) != clip:
            parent[clip] = parent[parent[clip]]
            clip = parent[clip]
        return clip

    for pair in pairs:
        a, b = root(pair.first), root(pair.second)
        parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for clip in sorted(parent):
        members.setdefault(root(clip), []).append(clip)
    return sorted(members.values(), key=lambda group: (-len(group), group[0]))


@dataclass(frozen=True)
class Copy:
    """A pair by name. Second t of `second` is second t + `offset_seconds` of `first`; `seconds` of it are shared."""

    first: str
    second: str
    splits: list[str]
    same_source: bool
    share: float
    seconds: float
    offset_seconds: float


@dataclass(frozen=True)
class Summary:
    """`pairs` near-duplicates were found, in `groups` of clips that hang together (`clips` in all, `largest` in the
    largest). `leaks` valid clips hang together with a train clip: what they measure was partly learned by heart.
    `listed` are the pairs themselves, across splits first, then the most alike; `silent` clips could not be compared,
    since their codes hardly move."""

    pairs: int
    groups: int
    clips: int
    largest: int
    leaks: int
    listed: list[Copy]
    candidates: int
    unverified: int
    silent: int


def summary(pack: Pack, found: Found, listed: int) -> Summary:
    """`found` with the names of the first `listed` pairs."""
    split_C = pack.clips.split_codes
    leaks = sum(
        sum(split_C[clip] > 0 for clip in group)
        for group in found.groups
        if len({int(split_C[clip]) for clip in group}) > 1
    )
    crossing = sorted(found.pairs, key=lambda pair: split_C[pair.first] == split_C[pair.second])
    rate = float(pack.spec.frame_rate)
    names, sources, splits = pack.clips.clip, pack.clips.source, pack.clips.split
    return Summary(
        pairs=len(found.pairs),
        groups=len(found.groups),
        clips=sum(map(len, found.groups)),
        largest=max(map(len, found.groups), default=0),
        leaks=int(leaks),
        listed=[
            Copy(
                names[pair.first],
                names[pair.second],
                [splits[pair.first], splits[pair.second]],
                sources[pair.first] == sources[pair.second],
                pair.share,
                (pair.frames + NGRAM - 1) / rate,
                pair.offset / rate,
            )
            for pair in crossing[:listed]
        ],
        candidates=found.candidates,
        unverified=found.unverified,
        silent=found.silent,
    )

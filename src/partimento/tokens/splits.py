"""Train and valid: by hashed source, so that a source falls on the same side in every pack, and never by window."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from partimento import keyed
from partimento.tokens.clips import SPLITS

VALID_SHARE = 0.1


def split(source: pa.ChunkedArray, sha256: Iterable[str | None]) -> NDArray[np.int8]:
    """The side of each clip, int8 [clips] of places in `SPLITS`, from their sources and the hashes of their files.

    Each source, whole, goes to one side. Sources that share a file (equal sha256) count as one, or a copy would leak;
    their group goes by the first of their names. With two or more groups each side gets at least one.

    Memory: the distinct names of the sources once, and about 40 bytes a clip while it runs.
    """
    names, codes = _numbered(source)
    group = _groups(names, codes, sha256)
    heads = np.unique(group)
    place = np.asarray([keyed.uniform("split", names[head].as_py()) for head in heads.tolist()])
    valid = place < VALID_SHARE
    if len(heads) > 1 and valid.all():
        valid[_extreme(names, heads, place, last=True)] = False
    elif len(heads) > 1 and not valid.any():
        valid[_extreme(names, heads, place, last=False)] = True
    elif len(heads) == 1:
        valid[:] = False
    side_of_source: NDArray[np.int8] = valid[np.searchsorted(heads, group)].astype(np.int8)
    return side_of_source[codes]


def sources(source: pa.ChunkedArray, sides: NDArray[np.int8]) -> dict[str, int]:
    """How many sources each side has."""
    _, codes = _numbered(source)
    return {name: len(np.unique(codes[sides == side])) for side, name in enumerate(SPLITS)}


def _numbered(source: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int32]]:
    """The distinct names, and for each row the number of its own."""
    found = source.unify_dictionaries() if pa.types.is_dictionary(source.type) else source.dictionary_encode()
    names = found.chunk(0).dictionary if found.num_chunks else pa.array([], pa.string())
    codes = [chunk.indices.to_numpy() for chunk in found.chunks]
    return names, np.concatenate(codes) if codes else np.empty(0, dtype=np.int32)


def _groups(names: pa.Array, codes: NDArray[np.int32], sha256: Iterable[str | None]) -> NDArray[np.int64]:
    """For each source the source that stands for its group: the first by name of those that share files with it,
    directly or not."""
    parent = np.arange(len(names))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = int(parent[one])
        return one

    # Files are compared by eight bytes of a hash: two in 17 million would meet by chance once in 10^5 packs, and then
    # two sources would share a side.
    keys = np.zeros(len(codes), dtype=np.uint64)
    known = np.zeros(len(codes), dtype=bool)
    for row, value in enumerate(sha256):
        if value is not None:
            known[row] = True
            keys[row] = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(keys[rows], kind="stable")]
    twins = np.flatnonzero((keys[rows[1:]] == keys[rows[:-1]]) & (codes[rows[1:]] != codes[rows[:-1]]))
    for one, other in zip(codes[rows[twins]].tolist(), codes[rows[twins + 1]].tolist(), strict=True):
        a, b = root(one), root(other)
        if a != b:
            first_name = a if names[a].as_py() < names[b].as_py() else b
            parent[a] = parent[b] = first_name
    while (parent[parent] != parent).any():
        parent = parent[parent]
    return parent


def _extreme(names: pa.Array, heads: NDArray[np.int64], place: NDArray[np.float64], *, last: bool) -> int:
    """The group that is first (or last) by place, then by name."""
    wanted = place.max() if last else place.min()
    ties = np.flatnonzero(place == wanted).tolist()
    order = sorted(ties, key=lambda i: str(names[int(heads[i])].as_py()))
    return int(order[-1 if last else 0])

"""Synthetic packs for benchmarks: uniform codes, or an index without codes, of any size."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa

from partimento.tokens import shards
from partimento.tokens.pack import Pack
from partimento.tokens.shards import Shard
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import finish_table, shard_file

SPEC = CodecSpec("synthetic", "0" * 64, 44100, Fraction(44100, 512), (1024,) * 9)
FRAMES, BOOKS = 943, 9  # 943 frames are 11 s
PER_SHARD = 4000


def make_pack(path: Path, clips: int) -> Pack:
    """Uniform codes, written as shards of PER_SHARD clips; the table goes in as Arrow batches."""
    rng, made = np.random.default_rng(0), []
    for number, first in enumerate(range(0, clips, PER_SHARD)):
        size = min(PER_SHARD, clips - first)
        codes_CTK = rng.integers(0, 1024, (size, FRAMES, BOOKS), dtype=np.uint16)
        made.append(shards.write(path, shard_file(number), list(codes_CTK), SPEC.cardinalities))
    return finish_table(path, SPEC, table(np.full(clips, FRAMES), PER_SHARD), made)


def make_index(path: Path, clips: int) -> None:
    """The index of a pack whose codes are elsewhere: lengths spread around three and a half minutes."""
    frames = np.random.default_rng(0).lognormal(np.log(210 * 86.13) - 0.08, 0.4, clips).astype(np.int64) + 1
    size, made = 800, []
    for number, first in enumerate(range(0, clips, size)):
        count, sum_ = len(frames[first : first + size]), int(frames[first : first + size].sum())
        made.append(Shard(shard_file(number), 64 + sum_ * BOOKS * 2 + 4 * count, sum_, count, f"{number:064x}"))
    finish_table(path, SPEC, table(frames, size), made)


def table(frames: np.ndarray, per_shard: int) -> Iterator[pa.RecordBatch]:
    """Clips back to back in shards of `per_shard`; each fourth is of the source of the one before."""
    names = pa.array([f"tag {i}" for i in range(200)])
    for first in range(0, len(frames), per_shard * 128):
        number = np.arange(first, min(first + per_shard * 128, len(frames)))
        some = frames[number]
        before = np.concatenate([[0], np.cumsum(some)[:-1]])
        tag_ids = (number[:, None] * [7, 13, 31] + [0, 5, 11]) % len(names)
        tags = pa.ListArray.from_arrays(
            pa.array(np.arange(0, 3 * len(number) + 1, 3, dtype=np.int32)), names.take(pa.array(tag_ids.ravel()))
        )
        columns = {
            "clip": pa.array(np.char.add("a/", number.astype("U"))),
            "source": pa.array((number - (number % 4 == 3)).astype("U")),
            "shard": pa.array((number // per_shard).astype(np.int32)),
            "first_frame": pa.array(before - before[(number - first) // per_shard * per_shard]),
            "frames": pa.array(some),
            "samples": pa.array(some * 512),
            "tags": tags,
        }
        yield pa.RecordBatch.from_pydict(columns)

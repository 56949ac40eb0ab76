"""The clip table of a pack: one row a recording, kept as clips.parquet, held as columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from partimento import commit

SCHEMA = pa.schema(
    [
        pa.field("clip", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("first_frame", pa.int64(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("loudness", pa.float64()),
        pa.field("peak", pa.float64()),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("licence", pa.string()),
    ]
)
# What a model's data depends on. Loudness, captions and licences may be corrected without making it another pack.
_ESSENTIAL = ("clip", "source", "shard", "first_frame", "frames", "samples", "split", "tags")


@dataclass(frozen=True)
class ClipRow:
    """One recording. `samples` at the codec's rate; `sha256` of the file it came from; `loudness` in LUFS (None where
    too short to say, -inf for silence); `peak` in dBFS."""

    clip: str
    source: str
    shard: int
    first_frame: int
    frames: int
    samples: int
    split: str = ""
    sha256: str | None = None
    loudness: float | None = None
    peak: float | None = None
    tags: tuple[str, ...] = ()
    caption: str | None = None
    licence: str | None = None

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        for name in ("loudness", "peak"):  # JSON has no infinities
            if tree[name] is not None and not np.isfinite(tree[name]):
                tree[name] = str(tree[name])
        return tree

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> ClipRow:
        numbers = {name: None if tree[name] is None else float(tree[name]) for name in ("loudness", "peak")}
        return cls(**{**tree, **numbers, "tags": tuple(tree["tags"])})


@dataclass(frozen=True)
class Clips:
    """The table as columns; index i is the clip number that `Pack.read` takes."""

    clip: list[str]
    source: list[str]
    shard: NDArray[np.int64]
    first_frame: NDArray[np.int64]
    frames: NDArray[np.int64]
    samples: NDArray[np.int64]
    split: list[str]
    sha256: list[str | None]
    loudness: list[float | None]
    peak: list[float | None]
    tags: list[list[str]]
    caption: list[str | None]
    licence: list[str | None]

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def id(self) -> list[str]:
        return self.clip

    def essentials(self) -> str:
        """sha256 over the columns that a model's data depends on."""
        columns = [[_plain(value) for value in getattr(self, name)] for name in _ESSENTIAL]
        return hashlib.sha256(json.dumps(columns, ensure_ascii=False).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


def from_rows(rows: Sequence[ClipRow]) -> Clips:
    columns: dict[str, Any] = {field.name: [getattr(row, field.name) for row in rows] for field in fields(ClipRow)}
    columns["tags"] = [list(tags) for tags in columns["tags"]]
    for name in ("shard", "first_frame", "frames", "samples"):
        columns[name] = np.asarray(columns[name], dtype=np.int64)
    return Clips(**columns)


def write(path: Path, clips: Clips) -> None:
    """Put the table at `path` as Parquet; equal tables are equal bytes."""
    table = pa.table({field.name: pa.array(getattr(clips, field.name), field.type) for field in SCHEMA}, schema=SCHEMA)
    commit.file(path, lambda tmp: pq.write_table(table, tmp, compression="zstd"))


def read(path: Path) -> Clips:
    """Read the table; raises what pyarrow raises (the caller has checked the file's hash)."""
    table = pq.read_table(path, schema=SCHEMA)
    columns: dict[str, Any] = {}
    for name in SCHEMA.names:
        column = table.column(name)
        whole = pa.types.is_integer(SCHEMA.field(name).type)
        columns[name] = column.to_numpy().astype(np.int64) if whole else column.to_pylist()
    return Clips(**columns)

"""The clip table of a pack: one row a recording, kept as Parquet, its columns read when they are first used.

A million hours are 17 million rows, so nothing here is a Python list: numbers are numpy arrays, strings are Arrow
columns (see `Column`), and whatever goes over the whole table goes batch by batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError

SPLITS = ("train", "valid")
LICENCE_TERMS = ("attribution", "non_commercial", "no_derivatives", "share_alike")
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
        pa.field("origin", pa.string()),
        *(pa.field(term, pa.bool_()) for term in LICENCE_TERMS),
    ]
)
_REPEATING = ["source", "split", "licence", "origin", "tags.list.element"]  # kept as dictionary + numbers
BATCH = 2**16  # rows that are handled at a time; also the rows of a row group
MOST_ROWS = 2**31
# What pyarrow raises for files that are no Parquet, or damaged (KeyError: a column that is not there).
_UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError)
_ROWS_A_BYTE = 16  # a real row takes more than a byte even compressed: names and first frames never repeat


@dataclass(frozen=True)
class ClipRow:
    """One recording. `samples` at the codec's rate; `sha256` of the file it came from; `loudness` in LUFS (None where
    too short to say, -inf for silence); `peak` in dBFS; `origin` where the recording comes from (URL, collection)."""

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
    origin: str | None = None

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


class Column(Sequence[Any]):
    """A column of strings, lists or nullable values: `[i]` is a Python value, `[a:b]` a list of them.

    `arrow` is the column itself, for work on all of it (Arrow's compute functions).
    """

    def __init__(self, arrow: pa.ChunkedArray) -> None:
        self.arrow = arrow

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.arrow[index].to_pylist()
        return self.arrow[int(index)].as_py()

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self), BATCH):
            yield from self.arrow.slice(first, BATCH).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Column):
            other = other.to_list()
        return self.to_list() == other

    __hash__ = None  # type: ignore[assignment]

    def index(self, value: Any, *_: Any) -> int:
        """The first row with this value; ValueError where there is none."""
        found = int(pc.index(self.arrow, value).as_py())
        if found < 0:
            raise ValueError(f"{value!r} is not in the column")
        return found

    def to_list(self) -> list[Any]:
        return list(self)


class Clips:
    """The table; index i is the clip number that `Pack.read` takes.

    `shard`, `first_frame`, `frames`, `samples` are numpy arrays of int32 where all values fit, int64 otherwise: convert
    before multiplying. `split_codes` is int8 (the place in `SPLITS`). All others are `Column`s.
    A column is checked when it is first read: PACK041 for nulls, negative numbers, unknown splits, text that is none.
    """

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self.path = path
        self._file = file
        self._rows = int(file.metadata.num_rows)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._rows

    clip: cached_property[Column] = cached_property(lambda self: self._column("clip"))
    source: cached_property[Column] = cached_property(lambda self: self._column("source"))
    sha256: cached_property[Column] = cached_property(lambda self: self._column("sha256"))
    loudness: cached_property[Column] = cached_property(lambda self: self._column("loudness"))
    peak: cached_property[Column] = cached_property(lambda self: self._column("peak"))
    tags: cached_property[Column] = cached_property(lambda self: self._column("tags"))
    caption: cached_property[Column] = cached_property(lambda self: self._column("caption"))
    licence: cached_property[Column] = cached_property(lambda self: self._column("licence"))
    origin: cached_property[Column] = cached_property(lambda self: self._column("origin"))
    attribution: cached_property[Column] = cached_property(lambda self: self._column("attribution"))
    non_commercial: cached_property[Column] = cached_property(lambda self: self._column("non_commercial"))
    no_derivatives: cached_property[Column] = cached_property(lambda self: self._column("no_derivatives"))
    share_alike: cached_property[Column] = cached_property(lambda self: self._column("share_alike"))

    shard: cached_property[NDArray[Any]] = cached_property(lambda self: self._numbers("shard"))
    first_frame: cached_property[NDArray[Any]] = cached_property(lambda self: self._numbers("first_frame"))
    frames: cached_property[NDArray[Any]] = cached_property(lambda self: self._numbers("frames"))
    samples: cached_property[NDArray[Any]] = cached_property(lambda self: self._numbers("samples"))

    @cached_property
    def split_codes(self) -> NDArray[np.int8]:
        """[clips] int8: 0 train, 1 valid."""
        codes, at = np.empty(self._rows, dtype=np.int8), 0
        for batch in self.batches(["split"]):
            names = batch.column(0)
            if not isinstance(names, pa.DictionaryArray):
                names = names.dictionary_encode()
            known = names.dictionary.to_pylist()
            places = np.asarray([SPLITS.index(name) if name in SPLITS else -1 for name in known] or [-1], dtype=np.int8)
            codes[at : at + len(names)] = places[names.indices.to_numpy()]
            if (codes[at : at + len(names)] < 0).any():
                raise unsound(self.path, f"it has the splits {', '.join(map(repr, known))}, not {' and '.join(SPLITS)}")
            at += len(names)
        return codes

    @cached_property
    def split(self) -> Column:
        return Column(pa.chunked_array([pa.DictionaryArray.from_arrays(self.split_codes, pa.array(SPLITS))]))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The table, or some of its columns, in runs of `BATCH` rows at most. Raises PACK041."""
        rows = 0
        try:
            named = None if columns is None else list(columns)
            for batch in self._file.iter_batches(BATCH, columns=named, use_threads=False):
                batch.validate(full=True)
                rows += len(batch)
                if rows > self._rows:
                    break
                for field, column in zip(batch.schema, batch.columns, strict=True):
                    nulls = column.null_count
                    if pa.types.is_list(field.type):
                        nulls += column.flatten().null_count
                    if nulls and not SCHEMA.field(field.name).nullable:
                        raise unsound(self.path, f"{field.name} has no value in some row")
                yield batch
        except _UNREADABLE as err:
            raise unsound(self.path, str(err)) from err
        if rows != self._rows:
            raise unsound(self.path, f"it holds other than the {self._rows} rows that it claims")

    def _column(self, name: str) -> Column:
        with self._lock:
            batches = list(self.batches([name]))
        kind = batches[0].schema.field(0).type if batches else SCHEMA.field(name).type
        return Column(pa.chunked_array([batch.column(0) for batch in batches], kind))

    def _numbers(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = np.empty(self._rows, dtype=np.int32)
        at = 0
        with self._lock:
            for batch in self.batches([name]):
                values = batch.column(0).to_numpy()
                if values.min(initial=0) < 0:
                    raise unsound(self.path, f"{name} is negative in some row")
                if values.max(initial=0) > np.iinfo(found.dtype).max:
                    found = found.astype(np.int64)
                found[at : at + len(values)] = values
                at += len(values)
        found.flags.writeable = False
        return found


def read(path: Path) -> Clips:
    """Open the table (the caller has checked the file's hash). Raises PACK041 for what is not the table of a pack."""
    try:
        # Read by position, not mapped: a file that is cut while it is open must not end the process.
        with commit.machine_errors(path):
            stream = pa.OSFile(str(path))
        file = pq.ParquetFile(stream, read_dictionary=_REPEATING, pre_buffer=False)
        found, rows, size = file.schema_arrow, file.metadata.num_rows, stream.size()
    except _UNREADABLE as err:
        raise unsound(path, str(err)) from err
    if not 0 <= rows <= min(MOST_ROWS, _ROWS_A_BYTE * size):
        raise unsound(path, f"it claims {rows} rows in {size} bytes")
    wrong = [name for name in SCHEMA.names if found.names.count(name) != 1]
    wrong = wrong or [name for name in SCHEMA.names if _plain(found.field(name).type) != SCHEMA.field(name).type]
    if wrong or found.names != SCHEMA.names:
        raise unsound(path, f"its columns are not those of a clip table ({', '.join(wrong) or 'there are others'})")
    return Clips(path, file)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without its dictionary encoding."""
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def unsound(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK041",
        f"{path.name} does not hold the clips of this pack",
        where=str(path),
        why=why,
        next="make the pack again with the command that made it",
    )

"""Writing clip tables: rows in, Parquet out, in runs of so many rows that memory does not grow with their number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from partimento.tokens.clips import BATCH, LICENCE_TERMS, SCHEMA, SPLITS, ClipRow

_PLAIN = ("clip", "sha256", "caption")  # columns whose values do not repeat
# What a model's data depends on. Loudness, captions and licences may be corrected without making it another pack.
_ESSENTIAL = ("clip", "source", "shard", "first_frame", "frames", "samples", "split", "tags")


def batches(rows: Iterable[ClipRow]) -> Iterator[pa.RecordBatch]:
    """Rows, consumed once, as record batches of the table; the terms of the licences are added by `write`."""
    names = [one.name for one in fields(ClipRow)]
    stream = iter(rows)
    while run := list(islice(stream, BATCH)):
        columns = {name: [getattr(row, name) for row in run] for name in names}
        yield _batch({name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}, len(run))


def regular(stream: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of any sizes, and with some of the table's columns only, as full batches of `BATCH` rows."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in stream:
        batch = _batch(_columns(batch), len(batch))
        while count + len(batch) >= BATCH:
            held.append(batch.slice(0, BATCH - count))
            batch, count = batch.slice(BATCH - count), 0
            yield pa.concat_batches(held) if len(held) > 1 else held[0]
            held = []
        if len(batch):
            held.append(batch)
            count += len(batch)
    if held:
        yield pa.concat_batches(held)


def with_splits(stream: Iterable[pa.RecordBatch], sides: NDArray[np.int8]) -> Iterator[pa.RecordBatch]:
    """The batches with the column `split` filled from `sides` (places in `SPLITS`), row by row."""
    at = 0
    for batch in stream:
        codes = pa.array(sides[at : at + len(batch)])
        split = pa.DictionaryArray.from_arrays(codes, pa.array(SPLITS)).cast(pa.string())
        yield _batch({**_columns(batch), "split": split}, len(batch))
        at += len(batch)


@dataclass
class Counts:
    """Of the rows that were written: for each split clips, frames and samples; `essentials` is the hash of what a
    model's data depends on."""

    clips: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    samples: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    essentials: str = ""

    def add(self, batch: pa.RecordBatch) -> None:
        for name in SPLITS:
            mask = pc.equal(batch.column("split"), name)
            self.clips[name] += int(pc.sum(mask).as_py() or 0)
            for counts, column in ((self.frames, "frames"), (self.samples, "samples")):
                counts[name] += int(pc.sum(batch.column(column).filter(mask)).as_py() or 0)


def write(path: Path, stream: Iterable[pa.RecordBatch]) -> Counts:
    """Write the table at `path`, as it is (the caller commits it); equal rows are equal bytes."""
    counts, hashes = Counts(), Essentials()
    repeating = [name for name in SCHEMA.names if name not in _PLAIN and name != "tags"] + ["tags.list.element"]
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=repeating) as writer:
        for batch in stream:
            licences = batch.column("licence")
            whole = _batch({**_columns(batch), **_terms(licences)}, len(batch))
            writer.write_batch(whole, row_group_size=BATCH)
            counts.add(whole)
            hashes.add(whole)
    counts.essentials = hashes.digest()
    return counts


class Essentials:
    """sha256 over the columns that a model's data depends on, fed with batches of any sizes.

    Each column has hashes of its own: numbers as int64 little-endian, texts as their lengths (int32) and their UTF-8
    bytes apart, tags as the lengths of the lists and then as texts. The result is the sha256 over all of these.
    """

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._rows += len(batch)
        for name in _ESSENTIAL:
            column = batch.column(name)
            if pa.types.is_integer(column.type):
                self._feed(name, column.to_numpy().astype("<i8"))
                continue
            if pa.types.is_list(column.type):
                self._feed(f"{name} in a row", pc.list_value_length(column).to_numpy().astype("<i4"))
                column = column.flatten()
            self._text(name, column)

    def _text(self, name: str, column: pa.Array) -> None:
        column = column.cast(pa.large_string())
        self._feed(f"{name} lengths", pc.binary_length(column).to_numpy(zero_copy_only=False).astype("<i4"))
        _, ends, content = column.buffers()
        if content is not None and len(column):
            ends_N = np.frombuffer(ends, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
            self._feed(f"{name} text", memoryview(content)[ends_N[0] : ends_N[-1]])

    def _feed(self, name: str, content: Any) -> None:
        self._hashes.setdefault(name, hashlib.sha256()).update(content)

    def digest(self) -> str:
        parts = [f"{name} {found.hexdigest()}" for name, found in sorted(self._hashes.items()) if self._rows]
        return hashlib.sha256("\n".join([f"{self._rows} rows", *parts]).encode()).hexdigest()


def essentials(stream: Iterable[pa.RecordBatch]) -> str:
    """The hash of a table that was read back."""
    hashes = Essentials()
    for batch in stream:
        hashes.add(batch)
    return hashes.digest()


def patched(
    stream: Iterable[pa.RecordBatch], changes: dict[str, dict[str, Any]], met: set[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The batches with changes {clip: {field: value}} applied; `met` gets the clips that they were applied to."""
    for batch in stream:
        names = batch.column("clip").to_pylist() if changes else []
        rows = {row: changes[name] for row, name in enumerate(names) if name in changes}
        if rows:
            columns = _columns(batch)
            for touched in sorted({name for change in rows.values() for name in change}):
                values = columns[touched].to_pylist()
                for row, change in rows.items():
                    values[row] = change.get(touched, values[row])
                columns[touched] = pa.array(values, SCHEMA.field(touched).type)
            batch = _batch(columns, len(batch))
            if met is not None:
                met.update(names[row] for row in rows)
        yield batch


def _columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def _batch(columns: dict[str, pa.Array], rows: int) -> pa.RecordBatch:
    """A record batch of the table's schema; columns that are not given are null."""
    plain = []
    for one in SCHEMA:
        values = columns.get(one.name)
        if values is not None:
            plain.append(values.cast(one.type))
        elif one.name == "split":
            plain.append(pa.repeat(pa.scalar(""), rows))
        else:
            plain.append(pa.nulls(rows, one.type))
    return pa.record_batch(plain, schema=SCHEMA)


def _terms(licences: pa.Array) -> dict[str, pa.Array]:
    """The columns that follow from `licence`; null where there is no licence or it says nothing that is known."""
    encoded = licences.dictionary_encode()
    known = [terms_of(text) for text in encoded.dictionary.to_pylist()]
    numbers = encoded.indices
    return {
        term: pa.array([None if one is None else one[place] for one in known], pa.bool_()).take(numbers)
        for place, term in enumerate(LICENCE_TERMS)
    }


@lru_cache(maxsize=4096)
def terms_of(text: str) -> tuple[bool, ...] | None:
    """The four terms of a licence text, in the order of `LICENCE_TERMS`."""
    from partimento.tokens import licence

    found = licence.read(text)
    return None if found is None else tuple(bool(getattr(found, term)) for term in LICENCE_TERMS)

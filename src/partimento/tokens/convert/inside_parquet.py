"""Runs in the child process: rows of codes out of Parquet, sixteen at a time.

The column of codes is one of these, and its name says which; a table with two of them is refused.

    codes          [T][K], as `partimento pack export --format parquet` writes it, with its labels
    audio_codes    [K][T], rows of MusicCaps {ytid, caption, aspect_list, start_s, end_s}
    tensor         [T][9 | 18], rows {id, filename, tags}

Each is nested lists of whole numbers, or bytes: a torch file, a .npy file (both known by their first bytes), or bare
int16 if a column `shape` holds [T, K] (for audio_codes [K, T]). Other bytes are refused.
"""

from __future__ import annotations

import ast
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from partimento.errors import PartimentoError
from partimento.tokens.convert import bounds
from partimento.tokens.convert.array import as_codes, of_npy
from partimento.tokens.convert.item import MOST_BOOKS, unfit

FORMS = ("codes", "audio_codes", "tensor")
ROWS = 16
METADATA = b"partimento"
_LABELS = {
    "codes": ("clip", "source", "samples", "tags", "caption", "licence", "origin", "sha256", "loudness", "peak"),
    "audio_codes": ("ytid", "id", "caption", "aspect_list", "start_s", "end_s", "licence", "n_codebooks", "seq_length"),
    "tensor": ("id", "filename", "tags", "caption", "licence", "source"),
}
_LONGEST_LABELS = 1 << 24
_MOST_CODES = 1 << 27  # of one row: two days of DAC; a few bytes of Parquet can claim thousands of millions


def records(path: Path) -> Iterator[tuple[dict[str, Any], NDArray[np.uint16] | None]]:
    """First {"form", "metadata"} of the table, then {"row", "labels"} with codes, or {"row", "refused"}, for each row.

    Raises CONVERT003 where the file is not such a table, at its start or where it turns out.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            form = _form(file.schema_arrow, path.name)
            yield {"form": form, "metadata": _metadata(file.schema_arrow)}, None
            names = [n for n in (form, "shape", *_LABELS[form]) if n in file.schema_arrow.names]
            row = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=names, use_threads=False):
                batch.validate(full=True)
                for number in range(batch.num_rows):
                    yield _row(batch, number, form, row)
                    row += 1
    # pyarrow's errors are also of these kinds
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError) as err:
        raise unfit(f"it is not readable Parquet: {str(err).split(chr(10))[0][:200]}", where=path.name) from None


def _form(schema: pa.Schema, where: str) -> str:
    found = [name for name in FORMS if name in schema.names]
    if len(found) != 1:
        raise unfit(
            f"of the columns {', '.join(FORMS)} it must have one, and has {' and '.join(found) or 'none'}", where=where
        )
    if len(set(schema.names)) != len(schema.names):
        raise unfit("two of its columns have one name", where=where)
    return found[0]


def _metadata(schema: pa.Schema) -> Any:
    text = (schema.metadata or {}).get(METADATA)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"its metadata {METADATA!r} is not JSON: {err}") from err


def _row(batch: pa.RecordBatch, number: int, form: str, row: int) -> tuple[dict[str, Any], NDArray[np.uint16] | None]:
    where = f"row {row}"
    try:
        labels = {name: batch.column(name)[number].as_py() for name in _LABELS[form] if name in batch.schema.names}
        labels = {name: _plain(name, value) for name, value in labels.items() if value is not None}
        if len(json.dumps(labels)) > _LONGEST_LABELS:
            raise unfit("its labels are too long", where=where)
        shape = batch.column("shape")[number].as_py() if "shape" in batch.schema.names else None
        codes = _codes(batch.column(form)[number], form, shape, where)
        expected = {"n_codebooks": codes.shape[1], "seq_length": codes.shape[0]}
        for name, value in expected.items():
            if form == "audio_codes" and labels.get(name, value) != value:
                raise unfit(f"{name} says {labels[name]}, and the codes have {value}", where=where)
        return {"row": row, "labels": labels}, as_codes(codes, where=where)
    except PartimentoError as err:
        return {"row": row, "refused": [err.code, err.message + (f": {err.why}" if err.why else "")]}, None


def _plain(name: str, value: Any) -> Any:
    """Only what JSON has; MusicCaps keeps its list of aspects as Python source."""
    if name == "aspect_list" and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as err:
            raise unfit(f"its aspect_list is not a list: {err}", where=name) from None
    kinds = (str, int, float, bool)
    if isinstance(value, list) and all(isinstance(one, kinds) for one in value):
        return value
    if not isinstance(value, kinds) or (isinstance(value, float) and value != value):
        raise unfit(f"its {name} is of the type {type(value).__name__}", where=name)
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def _codes(cell: pa.Scalar, form: str, shape: Any, where: str) -> NDArray[np.integer[Any]]:
    """[T, K] of one cell."""
    if not cell.is_valid:
        raise unfit("it has no codes", where=where)
    kind = cell.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        array = _of_bytes(cell.as_py(), shape, where)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
    else:
        array = _nested(cell, where)
    if array.ndim != 2:
        raise unfit(f"its codes have the shape {array.shape}", where=where)
    codes = array.T if form == "audio_codes" else array
    books = codes.shape[1]
    if form == "tensor" and books not in (9, 18):
        raise unfit(f"a tensor is [T, 9] or [T, 18], not {list(codes.shape)}", where=where)
    if books < 1 or (form == "audio_codes" and books > MOST_BOOKS):
        raise unfit(f"{books} books", where=where)
    return codes


def _of_bytes(content: bytes, shape: Any, where: str) -> NDArray[np.integer[Any]]:
    if content.startswith(b"PK\x03\x04"):
        return _torch().tensor(io.BytesIO(content), len(content), where=where)
    if content.startswith(b"\x93NUMPY"):
        return of_npy(content, where=where)
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape):
        if 2 * shape[0] * shape[1] == len(content):
            return np.frombuffer(content, "<i2").reshape(shape)
        raise unfit(f"int16 of the shape {shape} are not {len(content)} bytes", where=where)
    raise unfit("its bytes are no torch or .npy file, and no column `shape` says what else", where=where)


@functools.cache
def _torch() -> Any:
    """Imported when it is needed, since that takes seconds and few tables hold such bytes."""
    from partimento.tokens.convert import inside_torch

    bounds.limit()
    return inside_torch


def _nested(cell: Any, where: str) -> NDArray[np.integer[Any]]:
    outer = cell.type
    inner = outer.value_type if _is_list(outer) else None
    if inner is None or not _is_list(inner) or not pa.types.is_integer(inner.value_type):
        raise unfit(f"a cell of the type {outer} is neither bytes nor lists of lists of whole numbers", where=where)
    lists = cell.values
    if len(lists.flatten()) > _MOST_CODES:
        raise unfit(f"it has {len(lists.flatten())} codes, more than any recording", where=where)
    lengths = pc.list_value_length(lists)
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise unfit("there are empty places among its codes", where=where)
    widths = set(pc.unique(lengths).to_pylist())
    if len(widths) > 1:
        raise unfit(f"its lists have {min(widths)} to {max(widths)} codes", where=where)
    flat: NDArray[np.integer[Any]] = values.to_numpy(zero_copy_only=False)
    return flat.reshape(len(lists), -1) if len(lists) and len(flat) else flat.reshape(0, max(widths, default=1) or 1)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))

"""Runs in the child process: one tensor of codes out of a file that torch.save wrote. Imports torch."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._weights_only_unpickler import UnpicklingError

from partimento.errors import PartimentoError
from partimento.tokens.convert.array import as_codes
from partimento.tokens.convert.item import unfit

COLUMNS = (9, 18)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# What torch.load lets through of bytes that are not what it expects; anything else ends this process and this file.
_FOREIGN = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, ArithmeticError),
    *(AssertionError, MemoryError, ImportError, struct.error, UnpicklingError),
)


def records(path: Path) -> Iterator[tuple[dict[str, Any], NDArray[np.uint16] | None]]:
    """One record: the codes [T, 9 | 18] of the file."""
    try:
        yield {}, tensor(path, path.stat().st_size, where=path.name)
    except OSError as err:
        raise unfit(f"it cannot be read: {err.strerror}", where=path.name) from err


def tensor(source: Path | io.BytesIO, size: int, *, where: str) -> NDArray[np.uint16]:
    """Codes [T, 9 | 18] of a torch file of `size` bytes. Raises CONVERT003, CONVERT006."""
    _check_zip(source, size, where)
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's own text recommends to run what is in the file
        raise unfit("it holds pickled objects that are not tensors", where=where) from None
    except _FOREIGN as err:
        reason = str(err).strip().split("\n")[0][:200]
        raise unfit(f"torch refuses it: {reason or type(err).__name__}", where=where) from None
    if not isinstance(loaded, torch.Tensor) or loaded.layout != torch.strided or loaded.device.type != "cpu":
        raise unfit(f"it holds {type(loaded).__name__}, not a plain tensor", where=where)
    if loaded.dtype not in _WHOLE or loaded.ndim != 2 or loaded.shape[1] not in COLUMNS:
        shape = list(loaded.shape)
        raise unfit(f"it holds {loaded.dtype} {shape}, not whole numbers [T, 9] or [T, 18]", where=where)
    if loaded.numel() * loaded.element_size() > size:  # strides can claim more than there is
        raise unfit(f"its shape {list(loaded.shape)} needs more bytes than the file has", where=where)
    return as_codes(loaded.detach().numpy(), where=where)


def _check_zip(source: Path | io.BytesIO, size: int, where: str) -> None:
    """torch reads without checking the archive's checksums, and maps what is compressed as if it were not."""
    try:
        with zipfile.ZipFile(source) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise unfit("parts of it are compressed, which torch.save never does", where=where)
            if sum(entry.file_size for entry in entries) > size:
                raise unfit("its parts claim more bytes than it has", where=where)
            damaged = archive.testzip()
    except PartimentoError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, *_FOREIGN) as err:
        raise unfit(f"it is not a whole file of torch.save (1.6 or later): {err}", where=where) from None
    if damaged:
        raise unfit(f"its part {damaged} does not match its checksum", where=where)
    if isinstance(source, io.BytesIO):
        source.seek(0)

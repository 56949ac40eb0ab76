"""Runs in a child process (`isolated`): tensors out of a file that torch.save wrote, into safetensors. Imports torch.

Only tensors are read (torch.load with weights_only), nothing in the file is run; what crashes the reader costs this
process alone.
"""

from __future__ import annotations

import resource
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import UnpicklingError

from partimento import isolated
from partimento.errors import PartimentoError
from partimento.runs import tensorfiles

DONE = b"D"
_ENVELOPES = ("state_dict", "model_state_dict", "model", "module")
_SPARE_BYTES = 4 << 30
# What torch.load lets through of bytes that are not what it expects; anything else ends this process.
_FOREIGN = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, ArithmeticError),
    *(AssertionError, MemoryError, ImportError, struct.error, UnpicklingError),
)


def answer(request: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """Writes the tensors of request["path"] to request["to"]. Raises WEIGHTS004 (damaged), WEIGHTS006 (no tensors)."""
    warnings.simplefilter("ignore")
    path = Path(request["path"])
    _limit(path.stat().st_size)
    tensorfiles.write(Path(request["to"]), tensors(path))
    yield DONE, b""


def tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file of torch.save. Raises WEIGHTS004 (damaged), WEIGHTS006 (it holds something else)."""
    _check_zip(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's own text recommends to run what is in the file
        raise _refused(path, "it holds pickled objects that are not tensors, which could run any program") from None
    except _FOREIGN as err:
        reason = str(err).strip().split("\n")[0][:200]
        raise _damaged(path, f"torch refuses it: {reason or type(err).__name__}") from None
    for name in _ENVELOPES:  # as trainers wrap them: {"model": tensors, "optimizer": ...}
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict) or not loaded:
        raise _refused(path, f"it holds {type(loaded).__name__}, not named tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _refused(path, f"{name!r} in it is {type(value).__name__}, not a tensor")
        if value.layout != torch.strided or value.device.type != "cpu":
            raise _refused(path, f"{name} in it is not a plain tensor")
        if value.numel() * value.element_size() > path.stat().st_size:  # strides can claim more than there is
            raise _damaged(path, f"{name} claims more bytes than the file has")
    return loaded


def _check_zip(path: Path) -> None:
    """torch reads without checking the archive's checksums, and maps what is compressed as if it were not."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _damaged(path, "parts of it are compressed, which torch.save never does")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise _damaged(path, "its parts claim more bytes than it has")
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, *_FOREIGN) as err:
        raise _damaged(path, f"it is not a whole file of torch.save (1.6 or later): {err}") from None
    if bad:
        raise _damaged(path, f"its part {bad} does not match its checksum")


def _limit(size: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    isolated.limit_memory(pages * resource.getpagesize() + 4 * size + _SPARE_BYTES)


def _damaged(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS004",
        f"{path.name} is damaged",
        where=str(path),
        why=why,
        next="download it again, or copy it again",
    )


def _refused(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS006",
        f"{path.name} holds more than named tensors",
        where=str(path),
        why=why,
        next="save its state dict alone, or as model.safetensors, where you trust it",
    )


if __name__ == "__main__":
    isolated.serve(answer)

"""Stand-ins for two packages, for a machine that has torch and nothing else.

`pydantic`: enough of it that `partimento.config` imports, with the defaults that are written there and no validation.
`safetensors.torch`: reading a file's bytes. Each is used only where the real package is missing; the report says so.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from typing import Any

import torch
from torch import Tensor

NEEDED = ("numpy", "pydantic", "safetensors", "transformers", "x_transformers")


def install() -> tuple[list[str], list[str]]:
    """Put a stand-in where a package is missing. Which packages are missing, and which have a stand-in now."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    makers = {"pydantic": _pydantic, "safetensors": _safetensors}
    used = [name for name in missing if name in makers]
    for name in used:
        makers[name]()
    return missing, used


def _module(name: str) -> Any:
    """An empty module that is found from now on; others ask for its specification."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
    return module


class _Model:
    """Fields are class attributes; those that are given by name win."""

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            if not hasattr(type(self), name) and name not in _annotated(type(self)):
                raise TypeError(f"{type(self).__name__} has no field {name}")
            setattr(self, name, value)


def _annotated(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}


def _pydantic() -> None:
    stand_in = _module("pydantic")
    stand_in.BaseModel = _Model
    stand_in.ConfigDict = dict
    stand_in.Field = lambda *given, **named: None
    stand_in.TypeAdapter = stand_in.ValidationError = type("Absent", (Exception,), {})
    stand_in.model_validator = stand_in.field_validator = lambda *given, **named: lambda method: method


_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TYPES |= {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}


def _load(content: bytes) -> dict[str, Tensor]:
    """The format in one paragraph: a length (8 bytes), a JSON header of that length, and the tensors' bytes."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    body = bytearray(content[8 + size :])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            flat = torch.frombuffer(body, dtype=torch.uint8)[first:last].clone()
            found[name] = flat.view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def _absent(*given: Any, **named: Any) -> Any:
    raise RuntimeError("safetensors is not installed; its stand-in only reads")


def _safetensors() -> None:
    package, inner = _module("safetensors"), _module("safetensors.torch")
    package.__path__ = []
    package.torch, package.safe_open, package.SafetensorError = inner, _absent, RuntimeError
    inner.load, inner.save, inner.save_file, inner.load_file = _load, _absent, _absent, _absent

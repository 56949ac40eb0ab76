"""Stand-ins for two packages, for a machine that has torch and nothing else.

`pydantic`: enough of it that `partimento.config` imports, with the defaults that are written there and no validation.
`safetensors.torch`: reading a file's bytes. Each is used only where the real package is missing, and the report says so.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from typing import Any

import torch
from torch import Tensor

NEEDED = ("numpy", "pydantic", "safetensors", "transformers", "x_transformers")


def missing() -> list[str]:
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def install() -> list[str]:
    """Put a stand-in where a package is missing; the names of those."""
    used = []
    for name, make in (("pydantic", _pydantic), ("safetensors", _safetensors)):
        if importlib.util.find_spec(name) is None:
            make()
            used.append(name)
    return used


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
    module = types.ModuleType("pydantic")
    stand_in: Any = module
    stand_in.BaseModel = _Model
    stand_in.ConfigDict = dict
    stand_in.Field = lambda *given, **named: None
    stand_in.TypeAdapter = stand_in.ValidationError = type("Absent", (Exception,), {})
    stand_in.model_validator = stand_in.field_validator = lambda *given, **named: lambda method: method
    sys.modules["pydantic"] = module


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
    package, inner = types.ModuleType("safetensors"), types.ModuleType("safetensors.torch")
    package.__path__ = []
    stand_in: Any = inner
    stand_in.load, stand_in.save = _load, _absent
    whole: Any = package
    whole.torch, whole.safe_open, whole.SafetensorError = inner, _absent, RuntimeError
    sys.modules["safetensors"], sys.modules["safetensors.torch"] = package, inner

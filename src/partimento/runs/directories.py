"""A directory that transformers' save_pretrained wrote: its config.json, and its tensors by name.

Only safetensors are read, in one file or in several with their index. Headers are read when it is opened, a tensor when
it is asked for: models of many gigabytes are never held twice. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs import hub
from partimento.runs.published import WEIGHTS
from partimento.runs.sources import CONFIG, INDEX, config_of

if TYPE_CHECKING:
    from torch import Tensor

_MOST_INDEX_BYTES = 64 << 20
_FRACTIONS = {"F64", "F32", "F16", "BF16"}


class Tensors(Mapping[str, "Tensor"]):
    """Tensors by name, each read from its file whenever it is asked for, as stored, on the CPU."""

    def __init__(self, place: Mapping[str, Path], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.place, self.shapes = dict(place), dict(shapes)

    def __getitem__(self, name: str) -> Tensor:
        import safetensors

        file = self.place[name]
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                return opened.get_tensor(name)
        except (OSError, safetensors.SafetensorError) as err:
            raise damaged(file, f"{name}: {err}") from err

    def __iter__(self) -> Iterator[str]:
        return iter(self.place)

    def __len__(self) -> int:
        return len(self.place)

    def numbers(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True)
class Directory:
    """`files` are the sha256 of its files of weights by name, in the order of their names; {} on the meta device, where
    models have no contents."""

    folder: Path
    config: dict[str, Any]
    tensors: Tensors
    files: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Of its one file of weights, or of the lines that `sha256sum *.safetensors` prints for several."""
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        lines = "".join(f"{digest}  {name}\n" for name, digest in self.files.items())
        return hashlib.sha256(lines.encode()).hexdigest()


def open_directory(path: str | Path) -> Directory:
    """The directory at `path`, or of this name of the Hugging Face hub in its local cache.

    Raises WEIGHTS020 (there is none), WEIGHTS021 (its weights are damaged or not all there), WEIGHTS004 (config.json).
    """
    folder = _folder(path)
    config = config_of(folder)
    place, shapes = _headers(folder)
    files = sorted(set(place.values()))
    return Directory(
        folder, config, Tensors(place, shapes), {} if meta() else {f.name: commit.sha256(f) for f in files}
    )


def meta() -> bool:
    """Whether models are being made without contents (`partimento plan`)."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.get_default_device().type == "meta"


def require_finite(tensors: Tensors, names: Iterator[str] | list[str]) -> None:
    """Raises WEIGHTS021 at the first tensor that is not of finite fractions."""
    import torch

    for name in names:
        value = tensors[name]
        if not bool(torch.isfinite(value).all()):
            raise damaged(tensors.place[name], f"{name}: not all of its numbers are finite")


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.exists():
        found = hub.cached(path, CONFIG)
        if found is None and hub.is_name(path):
            raise absent(path, f"it is neither a folder in {Path.cwd()} nor in the hub's cache", f"hf download {path}")
        folder = found or folder
    if not folder.is_dir():
        raise absent(path, f"there is no folder {folder.resolve()}", "give the folder that save_pretrained wrote")
    if not (folder / CONFIG).is_file():
        raise absent(path, f"it has no {CONFIG}", "give the folder that save_pretrained wrote")
    return folder


def _headers(folder: Path) -> tuple[dict[str, Path], dict[str, tuple[int, ...]]]:
    """Where each tensor lies, and its shape. Raises WEIGHTS020, WEIGHTS021."""
    listed = _indexed(folder)
    if listed is None and not (folder / WEIGHTS).is_file():
        why = f"it has no {WEIGHTS} and no {INDEX}"
        if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
            why += "; pickles are not read"
        raise absent(
            folder, why, "save it as safetensors: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
        )
    place: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(set(listed.values())) if listed is not None else [WEIGHTS]:
        for tensor, shape in _header(folder / name).items():
            if listed is not None and listed.get(tensor) != name:
                raise damaged(folder / name, f"{tensor} is not where {INDEX} says")
            place[tensor], shapes[tensor] = folder / name, shape
    for tensor, name in (listed or {}).items():
        if tensor not in place:
            raise damaged(folder / name, f"{tensor}, which {INDEX} lists, is not in it")
    return place, shapes


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    import safetensors

    shapes = {}
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dictionary
                found = opened.get_slice(name)
                if found.get_dtype() not in _FRACTIONS:
                    raise damaged(file, f"{name} is stored as {found.get_dtype()}: quantized weights are not read")
                shapes[name] = tuple(found.get_shape())
    except (OSError, safetensors.SafetensorError) as err:
        raise damaged(file, str(err)) from err
    return shapes


def _indexed(folder: Path) -> dict[str, str] | None:
    """{tensor: file} of the index; None where there is none. Raises WEIGHTS021."""
    import json

    file = folder / INDEX
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _MOST_INDEX_BYTES:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        tree = json.loads(file.read_text(encoding="utf-8"))
        listed = tree.get("weight_map") if isinstance(tree, dict) else None
        if not isinstance(listed, dict) or not listed:
            raise ValueError("it has no weight_map")
    except (OSError, ValueError, RecursionError) as err:
        raise damaged(file, str(err)) from err
    for name in set(map(str, listed.values())):
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise damaged(file, f"it lists {name}, which is not beside it")
    return {str(tensor): str(name) for tensor, name in listed.items()}


def absent(path: str | Path, why: str, next: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS020", f"{path} is no directory of a model that can be read", where=str(path), why=why, next=next
    )


def damaged(file: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS021",
        f"the weights in {file.parent.name} are damaged, or not those of its {CONFIG}",
        where=str(file),
        why=why,
        next="download or save the directory again",
    )

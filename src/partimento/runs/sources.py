"""Checkpoints of other programs, opened: their config.json and their tensors by name.

safetensors are read here, in one file or several; a file of torch.save is read by a child process (`unpickled`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partimento import commit, isolated
from partimento.errors import PartimentoError
from partimento.progress import Progress
from partimento.runs import hub, tensorfiles
from partimento.runs.published import WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
_PICKLES = (".pth", ".pt", ".bin")
_MOST_INDEX_BYTES = 64 << 20
_MOST_CONFIG_BYTES = 1 << 20
_CHILD_STALL_SECONDS = 1800.0
_HINTS = {
    ("dia", "transformers"): ("model.encoder.embedding.weight", "logits_dense.weight"),
    ("dia", "nari"): ("encoder.embedding.weight", "decoder.logits_dense.weight"),
    ("musicgen", "transformers"): ("decoder.lm_heads.0.weight", "text_encoder.shared.weight"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of another program: the folder of its small files, its config.json, and its tensors by name."""

    folder: Path
    config: dict[str, Any]
    state: dict[str, Tensor]
    files: list[Path]

    @property
    def kind(self) -> tuple[str, str]:
        """(kind, layout) of _HINTS. Raises WEIGHTS003."""
        for found, names in _HINTS.items():
            if any(name in self.state for name in names):
                return found
        why = f"it has {len(self.state)} tensors, as {', '.join(sorted(self.state)[:3])}"
        if "lm_heads.0.weight" in self.state:
            why = "it is MusicGen's decoder alone; the text encoder (MusicgenForConditionalGeneration) is needed too"
        raise _unknown(self.folder, why)


@contextlib.contextmanager
def opened(path: Path, to: Path, progress: Progress) -> Iterator[Checkpoint]:
    """The checkpoint at `path`. Its tensors may lie in a file that is gone afterwards. Raises WEIGHTS003, 004, 006."""
    folder, files = _files(path)
    config = config_of(folder)
    progress.stage("read", ", ".join(file.name for file in files))
    with contextlib.ExitStack() as stack:
        read = [stack.enter_context(_unpickled(file, to)) if file.suffix in _PICKLES else file for file in files]
        state: dict[str, Tensor] = {}
        for file, shown in zip(read, files, strict=True):
            try:
                state |= tensorfiles.read([file])
            except (OSError, ValueError) as err:
                raise _damaged(shown, str(err)) from err
        yield Checkpoint(folder, config, _unwrapped(state), files)


def _files(path: Path) -> tuple[Path, list[Path]]:
    """The folder of a checkpoint and its files of tensors. Raises WEIGHTS003, WEIGHTS004 (a bad index)."""
    if not path.exists():
        fetched = hub.cached(path, CONFIG)
        if fetched is None and hub.is_name(path):
            why = f"neither a folder in {Path.cwd()} nor in the hub's cache; to have it there: hf download {path}"
            raise _unknown(path, why)
        path = fetched or path
    if path.is_file():
        if path.suffix not in (".safetensors", *_PICKLES):
            raise _unknown(path, f"its name ends in {path.suffix or 'nothing'}, not in .safetensors or .pth")
        return path.parent, [path]
    if not path.is_dir():
        raise _unknown(path, f"there is no folder or file {path.resolve()}")
    if (path / INDEX).is_file():
        return path, _indexed(path)
    for names in ([WEIGHTS], ["*.safetensors"], [f"*{suffix}" for suffix in _PICKLES]):
        found = sorted(file for name in names for file in path.glob(name))
        if len(found) > 1:
            raise _unknown(path, f"it holds {', '.join(file.name for file in found[:4])}: name the file that is meant")
        if found:
            return path, found
    raise _unknown(path, "it holds no .safetensors and no .pth")


def _indexed(folder: Path) -> list[Path]:
    tree = _json(folder / INDEX, most=_MOST_INDEX_BYTES)
    listed = tree.get("weight_map")
    if not isinstance(listed, Mapping) or not listed:
        raise _damaged(folder / INDEX, "it has no weight_map")
    names = sorted({str(name) for name in listed.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise _damaged(folder / INDEX, f"it lists {name}, which is not beside it")
    return [folder / name for name in names]


def config_of(folder: Path) -> dict[str, Any]:
    """Raises WEIGHTS003 (there is none), WEIGHTS004."""
    if not (folder / CONFIG).is_file():
        raise _unknown(folder, f"there is no {CONFIG} beside the weights")
    return _json(folder / CONFIG, most=_MOST_CONFIG_BYTES)


def _json(file: Path, most: int) -> dict[str, Any]:
    try:
        if file.stat().st_size > most:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        tree = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as err:
        raise _damaged(file, str(err)) from err
    return tree


@contextlib.contextmanager
def _unpickled(file: Path, to: Path) -> Iterator[Path]:
    """The tensors of a file of torch.save in a file of safetensors beside `to`, for as long as they are needed."""
    command = (sys.executable, "-m", "partimento.runs.unpickled")
    with commit.scratch(to.with_name(f"{to.name}.safetensors")) as tmp:
        child = isolated.Child(command, stall_seconds=_CHILD_STALL_SECONDS, longest=1 << 20)
        try:
            with child.ask({"path": os.fsdecode(file.absolute()), "to": os.fsdecode(tmp.absolute())}) as message:
                while message(b"DE")[0] != b"E":
                    pass
        except isolated.Lost as lost:
            raise PartimentoError(
                "WEIGHTS006",
                f"reading {file.name} crashed, hung or used up its memory",
                where=str(file),
                why=lost.why,
                next="download it again, or convert it to model.safetensors where you trust it",
            ) from None
        finally:
            child.close()
        yield tmp


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what torch.compile and DistributedDataParallel put before the names of what they wrap."""
    names = {name: name.replace("_orig_mod.", "") for name in state}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {before: name.removeprefix("module.") for before, name in names.items()}
    return {name: state[before] for before, name in names.items()}


def licence_of(folder: Path) -> str | None:
    """As the head of a README of the hub says."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return None
    found = re.match(r"---\n(?:.*\n)*?license:\s*([\w.-]+)\s*\n", head)
    return found[1] if found else None


def _unknown(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS003",
        f"{path} is no checkpoint that partimento reads",
        where=str(path),
        why=why,
        next="give the folder of a Dia (transformers, nari-labs) or a MusicGen (transformers), with its config.json",
    )


def _damaged(file: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS004",
        f"{file.name} is damaged",
        where=str(file),
        why=why,
        next="download it again, or copy it again",
    )

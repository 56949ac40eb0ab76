"""Checkpoints: immutable folders of safetensors that are committed by rename and verified when read.

    checkpoints/step-000012000/
      model.safetensors  ema.safetensors  optimizer.safetensors   each readable by any safetensors reader
      state.json      step, configuration, identity of the data, seed, samples seen, score, counters
      manifest.json   bytes and sha256 of every file above, written last

There is no `latest` or `best` file that could be stale: both are computed from the folders that are there.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partimento import commit
from partimento.errors import PartimentoError

if TYPE_CHECKING:  # a run can be read without torch
    from torch import Tensor

_NAME = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class Checkpoint:
    """What was read, after its hashes matched. `parts` maps "model", "ema", "optimizer" to named tensors on the CPU."""

    path: Path
    step: int
    state: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]


def step_name(step: int) -> str:
    return f"step-{step:09d}"


def save(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Commit a checkpoint of `step` below `folder` and return its path.

    `state` is JSON. Tensors may live on any device, share storage or be non-contiguous; each is stored on its own.
    A step that is there already is left as it is: checkpoints are immutable and a step determines its content.
    Raises SYS002; the checkpoints that are there stay untouched then.
    """
    path = Path(folder) / step_name(step)
    if path.exists():
        return path
    with commit.folder(path) as tmp:
        for part, tensors in parts.items():
            _write_tensors(tmp / f"{part}.safetensors", tensors)
        commit.record(tmp / "state.json", {**state, "step": step})
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": commit.sha256(file)} for file in sorted(tmp.iterdir())
        }
        commit.record(tmp / "manifest.json", {"schema": 1, "step": step, "files": files})
    return path


def visible(folder: Path) -> list[Path]:
    """Checkpoints below `folder` from the oldest to the newest, verified or not."""
    folder = Path(folder)
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)) if folder.exists() else []


def verify(path: Path, files: Sequence[str] | None = None) -> None:
    """Hash every file (or those named) against the manifest. Raises CKPT001, naming the first that does not match."""
    path = Path(path)
    manifest = _json(path, "manifest.json").get("files", {})
    for name in files if files is not None else sorted(manifest):
        recorded = manifest.get(name)
        if recorded is None:
            raise _damaged(path, f"the manifest does not list {name}")
        file = path / name
        if not file.is_file():
            raise _damaged(path, f"{name} is missing")
        if file.stat().st_size != recorded["bytes"]:
            raise _damaged(path, f"{name} has {file.stat().st_size} bytes, {recorded['bytes']} were written")
        if commit.sha256(file) != recorded["sha256"]:
            raise _damaged(path, f"{name} does not match its recorded sha256")
    if files is None and "state.json" not in manifest:
        raise _damaged(path, "the manifest does not list state.json")


def load(path: Path, parts: Sequence[str] | None = None) -> Checkpoint:
    """Read a checkpoint, only after what is read was verified; `parts` limits the work, e.g. to ("ema",).

    Raises CKPT001 (damaged, or a part that this checkpoint does not have).
    """
    from safetensors.torch import load_file

    path = Path(path)
    verify(path, None if parts is None else ["state.json", *(f"{part}.safetensors" for part in parts)])
    state = _json(path, "state.json")
    listed = [Path(name) for name in _json(path, "manifest.json")["files"]]
    names = parts if parts is not None else sorted(file.stem for file in listed if file.suffix == ".safetensors")
    return Checkpoint(path, state["step"], state, {name: load_file(path / f"{name}.safetensors") for name in names})


def newest(folder: Path, note: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest checkpoint that verifies, or None if there is none at all; `note` is told of each damaged one.

    Raises CKPT002 if there are checkpoints but all are damaged: then nothing is started over silently.
    """
    found = visible(folder)
    for path in reversed(found):
        try:
            verify(path)
        except PartimentoError as err:
            note(f"{path.name} is damaged ({err.why}); trying the one before it")
            continue
        return path
    if found:
        raise PartimentoError(
            "CKPT002",
            f"none of the {len(found)} checkpoints is whole",
            where=str(folder),
            next="restore them from a copy, or start a new run (leave --run away)",
        )
    return None


def best(folder: Path) -> Path | None:
    """The checkpoint with the lowest score (see `state.json`), or None if none was scored; reads small files only."""
    scored: list[tuple[float, Path]] = []
    for path in visible(folder):
        try:
            score = _json(path, "state.json").get("score")
        except PartimentoError:
            continue  # damaged: it cannot be the best of what can be read
        if score is not None:
            scored.append((score, path))
    return min(scored)[1] if scored else None


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` and the best; returns what was removed. A rename comes first, so that no reader
    meets a checkpoint that is half gone."""
    found = visible(folder)
    spared = {*found[-keep:], best(folder)}
    removed = [path for path in found if path not in spared]
    for path in removed:
        gone = path.rename(path.with_name(path.name + commit.TMP))
        shutil.rmtree(gone)
    return removed


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to `damaged-...`, out of the way of the one that its step will write again."""
    number = 0
    while (aside := path.with_name(f"damaged-{path.name}" + (f"-{number}" if number else ""))).exists():
        number += 1
    return path.rename(aside)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    import safetensors
    import safetensors.torch

    storages: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (tied weights, slices of one buffer): give each its own.
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        own[name] = tensor
    try:
        safetensors.torch.save_file(own, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as err:
        # It wraps the system's error; unwrap it, so that a full disk is told as one.
        if number := re.search(r"os error (\d+)", str(err)):
            raise OSError(int(number[1]), str(err)) from err
        raise


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise _damaged(path, f"{name} cannot be read: {err}") from err
    if not isinstance(content, dict):
        raise _damaged(path, f"{name} is not a JSON object")
    return content


def _damaged(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "CKPT001",
        f"the checkpoint {path.name} is damaged",
        where=str(path),
        why=why,
        next="use another checkpoint of the run; training falls back to the previous one by itself",
    )

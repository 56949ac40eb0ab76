"""Checkpoints: immutable folders of safetensors that are committed by rename and verified when read.

    checkpoints/step-000012000/
      model.safetensors  ema.safetensors  optimizer.safetensors   each readable by any safetensors reader
      state.json      schema, step, configuration, identity of the data, seed, samples seen, score, figures, counters
      manifest.json   schema, step, bytes and sha256 of every file above; written last

Where several devices wrote a part together, it is a folder (`model/`) with a file of each (see `tensorfiles`). There is
no `latest` or `best` file that could be stale: both are computed from the folders that are there.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import partimento
from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs import migrations, tensorfiles
from partimento.runs.events import plain

if TYPE_CHECKING:  # a run can be read without torch
    from torch import Tensor
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

_NAME = re.compile(r"step-(\d{9})")
_REMOVED = re.compile(r".+\.[0-9a-f]{8}\.tmp")
_FILE = re.compile(r"state\.json|(\w+)\.safetensors|(\w+)/[\w.-]+\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What was read, after its hashes matched. `parts` maps "model", "ema", "optimizer" to named tensors on the CPU.

    State and names are those of the newest schema; `schema` is the one that it was written with.
    """

    path: Path
    step: int
    state: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]
    schema: int = migrations.SCHEMA


def step_name(step: int) -> str:
    return f"step-{step:09d}"


def save(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Commit a checkpoint of `step` below `folder` and return its path.

    `state` is JSON, with null for a number that is not finite. Tensors may live on any device, share storage or be
    non-contiguous; each is stored on its own. A step that is there already is left as it is: checkpoints are immutable
    and a step determines its content. Raises SYS002 (the checkpoints that are there stay untouched then) and CKPT012
    (moments in low precision).
    """
    path = Path(folder) / step_name(step)
    if path.exists():
        return path
    for part, tensors in parts.items():
        tensorfiles.check_precision(part, {name: tensor.dtype for name, tensor in tensors.items()}, path)
    with commit.folder(path) as tmp:
        for part, tensors in parts.items():
            tensorfiles.write(tmp / f"{part}.safetensors", tensors)
        seal(tmp, step, state)
    return path


def seal(tmp: Path, step: int, state: Mapping[str, Any], shapes: tensorfiles.Shapes | None = None) -> None:
    """Write the state, and last the manifest over all files, into a folder that will be a checkpoint when renamed.

    `shapes` are those of the whole tensors of sharded parts, without which a missing share could not be told.
    """
    made = {"schema": migrations.SCHEMA, "step": step, "partimento": partimento.__version__}
    commit.record(tmp / "state.json", plain({**state, **made}))
    files = {
        file.relative_to(tmp).as_posix(): {"bytes": file.stat().st_size, "sha256": commit.sha256(file)}
        for file in sorted(tmp.rglob("*"))
        if file.is_file()
    }
    commit.record(tmp / "manifest.json", {**made, "files": files, **({"shapes": shapes} if shapes else {})})


def visible(folder: Path) -> list[Path]:
    """Checkpoints below `folder` from the oldest to the newest, verified or not."""
    folder = Path(folder)
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)) if folder.exists() else []


def contents(path: Path) -> dict[str, list[Path]]:
    """The files of each part, as the manifest lists them: one, or one for each device. Raises CKPT001, CKPT011."""
    found: dict[str, list[Path]] = {}
    for name in sorted(_manifest(Path(path))["files"]):
        if (match := _FILE.fullmatch(name)) and (part := match[1] or match[2]):
            found.setdefault(part, []).append(Path(path) / name)
    return found


def verify(path: Path, parts: Sequence[str] | None = None) -> None:
    """Hash every file, or the state and the files of `parts`, against the manifest.

    Raises CKPT001, naming the first file that does not match, and CKPT011 (written by a newer version).
    """
    path = Path(path)
    manifest = _manifest(path)["files"]
    listed = contents(path)
    for part in parts or ():
        if part not in listed:
            raise _damaged(path, f"the manifest does not list {part}.safetensors")
    files = [path / "state.json", *(file for part in (listed if parts is None else parts) for file in listed[part])]
    for file in files:
        name = file.relative_to(path).as_posix()
        if not file.is_file():
            raise _damaged(path, f"{name} is missing")
        if file.stat().st_size != manifest[name]["bytes"]:
            raise _damaged(path, f"{name} has {file.stat().st_size} bytes, {manifest[name]['bytes']} were written")
        try:
            digest = commit.sha256(file)
        except OSError as err:
            raise _damaged(path, f"{name} cannot be read: {err.strerror}") from err
        if digest != manifest[name]["sha256"]:
            raise _damaged(path, f"{name} does not match its recorded sha256")


def load(path: Path, parts: Sequence[str] | None = None) -> Checkpoint:
    """Read a checkpoint, only after what is read was verified; `parts` limits the work, e.g. to ("ema",).

    Older schemas are migrated, and parts that several devices wrote are put together. Raises CKPT001 (damaged, or a
    part that this checkpoint does not have), CKPT011 (written by a newer version), CKPT012 (moments in low precision).
    """
    path = Path(path)
    verify(path, parts)
    state, schema = _state(path)
    found: dict[str, dict[str, Tensor]] = {part: {} for part in migrations.new_parts(schema) if parts is None}
    listed, shapes = contents(path), _manifest(path)["shapes"]
    for part in listed if parts is None else parts:
        try:
            tensors = tensorfiles.read(listed[part], shapes.get(part))
            found[part] = migrations.migrate_tensors(state.get("family"), schema, tensors)
        except ValueError as err:
            raise _damaged(path, f"{part} cannot be read: {err}") from err
        tensorfiles.check_precision(part, {name: tensor.dtype for name, tensor in tensors.items()}, path)
    return Checkpoint(path, state["step"], state, found, schema)


def described(path: Path, part: str) -> dict[str, TensorStorageMetadata]:
    """Shapes and dtypes of a part as it is stored, from the headers alone. Raises CKPT001, CKPT011, CKPT012."""
    try:
        source = tensorfiles.reader(contents(path)[part])
        found = tensorfiles.described(source, _manifest(path)["shapes"].get(part))
    except ValueError as err:
        raise _damaged(path, f"{part} cannot be read: {err}") from err
    tensorfiles.check_precision(part, {name: tensor.properties.dtype for name, tensor in found.items()}, path)
    return found


def newest(folder: Path, note: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest checkpoint that verifies, or None if there is none at all; `note` is told of each damaged one.

    Raises CKPT002 if there are checkpoints but all are damaged (then nothing is started over silently), CKPT011
    (written by a newer version) and SYS002 (the machine cannot read now, which says nothing of the file).
    """
    found = visible(folder)
    for path in reversed(found):
        try:
            verify(path)
        except PartimentoError as err:
            if err.code != "CKPT001":
                raise
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


def best(folder: Path, metric: str | None = None) -> Path | None:
    """The checkpoint with the lowest score, or with the lowest `metric`: a figure of the validation at its step, where
    dots lead into a group or a list ("ce_K.0"). None if none was scored. Reads small files only.

    Raises CKPT010 if there are checkpoints and none has this figure.
    """
    states = dict(readable(folder))
    found = _lowest(states, metric)
    if found is None and metric is not None and states:
        names = sorted({name for state in states.values() for name in state.get("figures", {})})
        raise PartimentoError(
            "CKPT010",
            f"no checkpoint has the figure {metric}",
            where=str(folder),
            why=f"their validations have {', '.join(names)}" if names else "none was saved at a validation",
            next=f"choose one of these, e.g. {names[0]}" if names else "leave the metric away: the newest is taken",
        )
    return found


def prune(folder: Path, keep: int, metric: str | None = None) -> list[Path]:
    """Remove all but the newest `keep`, the best (see `best`), and the newest that a rollback may return to ("good" in
    its state); returns what was removed."""
    found, states = visible(folder), dict(readable(folder))
    good = [path for path, state in states.items() if state.get("good")]
    spared = {*found[-keep:], *good[-1:], _lowest(states, metric)}
    removed = [path for path in found if path not in spared]
    remove(folder, removed)
    return removed


def remove(folder: Path, paths: Sequence[Path]) -> None:
    """Remove checkpoints of `folder`, and what an earlier call left that was killed. A rename comes first, so that no
    reader meets a checkpoint that is half gone."""
    for path in paths:
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}{commit.TMP}"))
    for gone in Path(folder).iterdir() if Path(folder).exists() else ():
        if _REMOVED.fullmatch(gone.name):
            shutil.rmtree(gone, ignore_errors=True)  # NFS keeps what somebody reads; the next call tries again


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Rename a checkpoint to `why-...`, out of the way of the one that its step will write again."""
    number = 0
    while (aside := path.with_name(f"{why}-{path.name}" + (f"-{number}" if number else ""))).exists():
        number += 1
    return path.rename(aside)


def readable(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(path, state) of the checkpoints below `folder` that can be read, from the oldest to the newest, not verified."""
    found = []
    for path in visible(folder):
        try:
            found.append((path, _state(path)[0]))
        except PartimentoError as err:
            if err.code != "CKPT001":  # a damaged one cannot be the best of what can be read
                raise
    return found


def _lowest(states: Mapping[Path, Mapping[str, Any]], metric: str | None) -> Path | None:
    scored = []
    for path, state in states.items():
        value = state.get("score") if metric is None else figure(state.get("figures"), metric)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            scored.append((value, path))
    return min(scored)[1] if scored else None


def figure(figures: Any, metric: str) -> Any:
    """The figure of that name, where dots lead into a group or a list; None if there is none."""
    for key in metric.split("."):
        if isinstance(figures, dict):
            figures = figures.get(key)
        elif isinstance(figures, list) and key.isdecimal() and int(key) < len(figures):
            figures = figures[int(key)]
        else:
            return None
    return figures


def _state(path: Path) -> tuple[dict[str, Any], int]:
    """The state in its newest form, and the schema that it has on disk."""
    raw = _json(path, "state.json")
    try:
        schema = migrations.schema_of(raw, str(path))
    except ValueError as err:
        raise _damaged(path, f"state.json: {err}") from err
    if not isinstance(raw.get("step"), int):
        raise _damaged(path, "state.json has no step")
    return migrations.migrate_state(raw, schema), schema


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """{"files": {name: {"bytes", "sha256"}}, "shapes": {part: {name: shape}}}, once it is sure that each name is one
    that a checkpoint can have and that no sharded part goes without its shapes."""
    content = _json(path, "manifest.json")
    try:
        migrations.schema_of(content, str(path))
    except ValueError as err:
        raise _damaged(path, f"manifest.json: {err}") from err
    files, shapes = content.get("files"), content.get("shapes", {})
    if not isinstance(files, dict) or not isinstance(shapes, dict) or "state.json" not in files:
        raise _damaged(path, "the manifest does not list state.json")
    for name, entry in files.items():
        if not (match := _FILE.fullmatch(name)):
            raise _damaged(path, f"the manifest lists {name!r}, which no checkpoint has")
        if match[2] and match[2] not in shapes:
            raise _damaged(path, f"the manifest does not say what the shares of {match[2]} make together")
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise _damaged(path, f"the manifest does not say what {name} is")
    if (named := _NAME.fullmatch(path.name)) and content.get("step") != int(named[1]):
        raise _damaged(path, f"the manifest is that of step {content.get('step')}")
    return {"files": files, "shapes": shapes}


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

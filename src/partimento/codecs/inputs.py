"""What is encoded: the audio files under the sources, with their tags, and the units of work that they are cut into."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento.audio.files import discover
from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging
from partimento.tokens.spec import CodecSpec

# A unit of work becomes one shard. Small, so that a kill loses little and the workers share evenly; but never more than
# some thousand in all. Both follow from the input alone, so every run cuts alike.
FILES_PER_UNIT = 8
BYTES_PER_UNIT = 64 * 2**20
MOST_UNITS = 1024


@dataclass(frozen=True)
class Input:
    """One recording. `clip` is its path relative to its source folder (no machine paths are kept in a pack)."""

    clip: str
    path: Path
    bytes: int
    source: str
    tags: tuple[str, ...] = ()
    caption: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Inputs:
    """All recordings, sorted by clip; `grouped_by` says for each source folder what a `source` is; `notes` tell what
    was found odd."""

    files: list[Input]
    grouped_by: dict[str, str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unit:
    """The recordings that become shard `number`."""

    number: int
    id: str
    files: list[Input]


@dataclass(frozen=True)
class Plan:
    """The whole work as a pure function of input and codec: what makes two encodes the same one."""

    spec: CodecSpec
    inputs: Inputs
    units: list[Unit]
    identity: dict[str, Any]


def collect(sources: Sequence[Path]) -> Inputs:
    """Find the recordings under `sources` (folders or files) and their tags.

    A recording's labels are its row in the nearest tags.jsonl between it and its source folder, else a .json, else a
    .txt (tags separated by commas) beside it. Its `source` (the unit of splitting) is the labels' one if the folder
    names more than one source; a single one shared by all is a credit line, and then each recording is its own.

    Raises SYS004 (no such path), AUDIO001 (no audio), PACK013 (labels that cannot be read).
    """
    root_of: dict[Path, Path] = {}  # of each recording; where sources overlap, the first mention wins
    for given in map(_absolute, sources):
        for path in discover(given):
            root_of.setdefault(path, given if given.is_dir() else given.parent)
    roots = list(dict.fromkeys(root_of.values()))
    files: list[Input] = []
    grouped_by: dict[str, str] = {}
    notes: list[str] = []
    for root, label in zip(roots, _labels(roots), strict=True):
        members = sorted(path for path, its_root in root_of.items() if its_root == root)
        labels = _Labels(root)
        rows = [labels.of(path) for path in members]
        named_sources = {str(row["source"]) for row in rows if row.get("source")}
        by_label = len(named_sources) > 1
        grouped_by[label or "."] = "source" if by_label else "file"
        for path, row in zip(members, rows, strict=True):
            clip = (label + "/" if label else "") + path.relative_to(root).as_posix()
            source = str(row["source"]) if by_label and row.get("source") else clip
            tags = tagging.clean(row.get("tags") or ())
            files.append(Input(clip, path, path.stat().st_size, source, tags, row.get("caption"), row.get("licence")))
        missing = labels.unused(set(members))
        if missing:
            notes.append(f"tags.jsonl names {len(missing)} file(s) that are not there, such as {missing[0]}")
    return Inputs(sorted(files, key=lambda file: file.clip), grouped_by, notes)


def plan(inputs: Inputs, spec: CodecSpec) -> Plan:
    """Cut the inputs into units. `identity` has a hash for each thing that must not change under a running encode."""
    files = inputs.files
    total = sum(file.bytes for file in files)
    most_files = max(FILES_PER_UNIT, -(-len(files) // MOST_UNITS))
    most_bytes = max(BYTES_PER_UNIT, -(-total // MOST_UNITS))
    groups: list[list[Input]] = []
    room = 0
    for file in files:
        if not groups or len(groups[-1]) == most_files or file.bytes > room:
            groups.append([])
            room = most_bytes
        groups[-1].append(file)
        room -= file.bytes
    identity = {
        "codec": spec.to_json(),
        "files": {"count": len(files), "bytes": total, "sha256": _hash([[f.clip, f.bytes] for f in files])},
        "labels": _hash([[f.clip, f.source, f.tags, f.caption, f.licence] for f in files]),
        "units": _hash([len(group) for group in groups]),
    }
    whole = _hash(identity)
    units = [Unit(number, _hash([whole, number]), group) for number, group in enumerate(groups)]
    return Plan(spec, inputs, units, identity)


def _hash(tree: Any) -> str:
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _absolute(path: str | Path) -> Path:
    """Without `..`, but with symbolic links as they are: a clip is named by where it was found."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _labels(roots: Sequence[Path]) -> list[str]:
    """A short name for each source folder; none where there is only one."""
    if len(roots) == 1:
        return [""]
    names: list[str] = []
    for root in roots:
        name, number = root.name or "root", 1
        while name in names:
            number += 1
            name = f"{root.name or 'root'}-{number}"
        names.append(name)
    return names


class _Labels:
    """The labels of the files below one source folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tables: dict[Path, dict[Path, dict[str, Any]]] = {}

    def of(self, path: Path) -> dict[str, Any]:
        folder = path.parent
        while True:
            if folder not in self._tables:
                self._tables[folder] = _read_table(folder)
            if path in self._tables[folder]:
                return self._tables[folder][path]
            if folder == self.root:
                return _read_sidecar(path)
            folder = folder.parent

    def unused(self, members: set[Path]) -> list[str]:
        """Files that a table names and that do not exist (a file that was only not chosen is none of them)."""
        named = {path for table in self._tables.values() for path in table}
        return [str(path.relative_to(self.root)) for path in sorted(named - members) if not path.exists()]


def _read_table(folder: Path) -> dict[Path, dict[str, Any]]:
    """Rows of folder/tags.jsonl by file; none where there is no such table."""
    path = folder / "tags.jsonl"
    if not path.is_file():
        return {}
    rows = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        row = _parse(line, f"{path}, line {number}")
        if not isinstance(row.get("file"), str):
            raise _unreadable(f"{path}, line {number}", 'it has no "file"')
        rows[_absolute(folder / row["file"])] = row
    return rows


def _read_sidecar(path: Path) -> dict[str, Any]:
    described, listed = path.with_suffix(".json"), path.with_suffix(".txt")
    if described.is_file():
        return _parse(_text(described), str(described))
    if listed.is_file():
        return {"tags": _text(listed).replace("\n", ",").split(",")}
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as err:
        raise _unreadable(str(path), str(err)) from err


def _parse(text: str, where: str) -> dict[str, Any]:
    """One object of labels, its fields of the right kinds. Fields that are not ours are other programs' business."""
    try:
        row = json.loads(text)
    except ValueError as err:
        raise _unreadable(where, str(err)) from err
    if not isinstance(row, Mapping):
        raise _unreadable(where, "it is not a JSON object")
    row = dict(row)
    tags = row.get("tags")
    if isinstance(tags, str):
        row["tags"] = tags.split(",")
    elif tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise _unreadable(where, '"tags" must be a list of strings')
    row.setdefault("licence", row.get("license"))
    for name in ("source", "caption", "licence"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise _unreadable(where, f'"{name}" must be a string')
    return row


def _unreadable(where: str, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK013", "the tags cannot be read", where=where, why=why, next="mend or remove that line or file"
    )

"""What is encoded: the audio files under the sources, with their tags, and the units of work that they are cut into."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento.audio.files import discover
from partimento.codecs.labels import Labels, manifest_files
from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging
from partimento.tokens.labelfiles import is_text
from partimento.tokens.licence import Allowed
from partimento.tokens.spec import CodecSpec

# A unit of work becomes one shard. Small, so that a kill loses little and the workers share evenly; growing with the
# root of the whole, so that a million hours are some ten thousand shards of some hundred MB. All of it follows from the
# input alone, so every run cuts alike.
FILES_PER_UNIT = 8
BYTES_PER_UNIT = 64 * 2**20
MOST_UNITS = 65536
MANIFESTS = (".jsonl", ".jsonl.gz", ".json")

Refused = tuple[str, str] | None  # code and reason


@dataclass(frozen=True, slots=True)
class Input:
    """One recording. `clip` is its path relative to its source folder (no machine paths are kept in a pack).

    `refused` has the code and the reason where it must not be encoded; `modified` is its time of change in ns, which
    says what to look at again and is kept nowhere.
    """

    clip: str
    path: Path
    bytes: int
    source: str
    tags: tuple[str, ...] = ()
    caption: str | None = None
    licence: str | None = None
    origin: str | None = None
    refused: Refused = None
    modified: int = field(default=0, compare=False)


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


def collect(
    sources: Sequence[Path], *, aliases: Mapping[str, str] | None = None, allowed: Allowed | None = None
) -> Inputs:
    """Find the recordings under `sources` (folders, files, or manifests: `labels.manifest_files`) and their labels,
    their tags by `aliases`.

    A clip's `source` (the unit of splitting) is the labels' one if the folder names more than one source; a single one
    shared by all is a credit line, and then each recording is its own. With `allowed`, what its licence does not permit
    is marked as refused.

    Raises SYS004 (no such path), AUDIO001 (no audio), PACK013 (labels that cannot be read), TAGS002 (a manifest of
    files that are not there).
    """
    root_of: dict[Path, _Root] = {}  # of each recording; where sources overlap, the first mention wins
    for given in map(_absolute, sources):
        root, members = _members(given)
        for path in members:
            root_of.setdefault(path, root)
    roots = list(dict.fromkeys(root_of.values()))
    files: list[Input] = []
    grouped_by: dict[str, str] = {}
    notes: list[str] = []
    kinds: Counter[str] = Counter()
    for root, prefix in zip(roots, _prefixes([root.folder for root in roots]), strict=True):
        paths = sorted(path for path, its_root in root_of.items() if its_root == root)
        labels = Labels(root.folder, aliases=aliases or {}, manifest=root.manifest)
        rows = [_labels(labels, path) for path in paths]
        named_sources = {str(row["source"]) for row, _ in rows if row.get("source")}
        by_label = len(named_sources) > 1
        grouped_by[prefix or "."] = "source" if by_label else "file"
        for path, (row, refused) in zip(paths, rows, strict=True):
            clip = (prefix + "/" if prefix else "") + path.relative_to(root.folder).as_posix()
            files.append(_input(clip, path, row, by_label, allowed, refused))
        kinds += labels.kinds
        missing = labels.unused(set(paths))
        if missing:
            notes.append(f"tags.jsonl names {len(missing)} file(s) that are not there, such as {missing[0]}")
    notes.append("labels from: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    return Inputs(sorted(files, key=lambda file: file.clip), grouped_by, notes)


@dataclass(frozen=True)
class _Root:
    """What clips are named from, and the manifest that lists them, if one was given."""

    folder: Path
    manifest: Path | None = None


def _members(given: Path) -> tuple[_Root, list[Path]]:
    """The recordings that a source stands for. A manifest's root is its folder, where that holds them all."""
    if not (given.is_file() and given.name.endswith(MANIFESTS)):
        return _Root(given if given.is_dir() else given.parent), discover(given)
    paths = manifest_files(given)
    inside = all(path.is_relative_to(given.parent) for path in paths)
    return _Root(given.parent if inside else Path(os.path.commonpath([path.parent for path in paths])), given), paths


def _labels(labels: Labels, path: Path) -> tuple[dict[str, Any], Refused]:
    """The labels of a recording. Its own file of labels, unreadable, costs it alone; a table ends the encode."""
    try:
        return labels.of(path), None
    except PartimentoError as err:
        if not err.context.get("beside"):
            raise
        return {}, _refusal(err)


def _refusal(err: PartimentoError) -> tuple[str, str]:
    return err.code, f"{err.message}: {err.why}" if err.why else err.message


def _input(
    clip: str, path: Path, row: Mapping[str, Any], by_label: bool, allowed: Allowed | None, refused: Refused
) -> Input:
    size = modified = 0
    try:
        found = path.stat()
        size, modified = found.st_size, found.st_mtime_ns
    except OSError as err:  # a broken link, say
        refused = ("SYS004", f"it cannot be looked at: {err.strerror}")
    if not is_text(clip):
        clip = os.fsencode(clip).decode("utf-8", "backslashreplace")
        refused = ("PACK038", "its name is not UTF-8, and a pack's table holds text")
    if allowed is not None and refused is None:
        try:
            allowed.check(row.get("licence"))
        except PartimentoError as err:
            refused = _refusal(err)
    return Input(
        clip=clip,
        path=path,
        bytes=size,
        source=str(row["source"]) if by_label and row.get("source") else clip,
        tags=tagging.clean(row.get("tags") or ()),
        caption=row.get("caption"),
        licence=row.get("licence"),
        origin=row.get("origin"),
        refused=refused,
        modified=modified,
    )


def plan(inputs: Inputs, spec: CodecSpec, *, upmix: bool = False) -> Plan:
    """Cut the inputs into units. `identity` has a hash for each thing that must not change under a running encode."""
    files = inputs.files
    total = sum(file.bytes for file in files)
    most_files = max(FILES_PER_UNIT, math.isqrt(len(files)) // 8, -(-len(files) // MOST_UNITS))
    parts = -(-total // BYTES_PER_UNIT)
    most_bytes = BYTES_PER_UNIT * max(1, math.isqrt(parts) // 8, -(-2 * parts // MOST_UNITS))
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
        "files": {"count": len(files), "bytes": total, "sha256": _hash_rows([f.clip, f.bytes] for f in files)},
        "labels": _hash_rows(map(_labels_of, files)),
        "units": _hash_rows(len(group) for group in groups),
        **({"upmix": True} if upmix else {}),
    }
    whole = _hash(identity)
    units = [Unit(number, _hash([whole, number]), group) for number, group in enumerate(groups)]
    return Plan(spec, inputs, units, identity)


def _labels_of(file: Input) -> list[Any]:
    """All that is said of it; what most recordings do not have comes last and is left out."""
    row = [file.clip, file.source, file.tags, file.caption, file.licence]
    return [*row, [file.origin, file.refused]] if file.origin or file.refused else row


def _hash_rows(rows: Iterable[Any]) -> str:
    """As `_hash` of the list, without the list."""
    digest = hashlib.sha256(b"[")
    for number, row in enumerate(rows):
        digest.update((b"," if number else b"") + _canonical(row))
    digest.update(b"]")
    return digest.hexdigest()


def _hash(tree: Any) -> str:
    return hashlib.sha256(_canonical(tree)).hexdigest()


def _canonical(tree: Any) -> bytes:
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogateescape")


def _absolute(path: str | Path) -> Path:
    """Without `..`, but with symbolic links as they are: a clip is named by where it was found."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _prefixes(roots: Sequence[Path]) -> list[str]:
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

"""Missing prompts: which recordings of a folder or pack have neither tags nor caption, and where lost ones lie.

Nothing is ever made up: a recording whose prompt is not found stays without.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.audio.files import AUDIO_SUFFIXES
from partimento.codecs.labels import Labels, read_manifest, read_metadata
from partimento.errors import PartimentoError
from partimento.tokens import labelfiles
from partimento.tokens.pack import Pack
from partimento.tokens.tags import apply_aliases

CODE_SUFFIXES = frozenset({".pt", ".npq", ".npy"})  # per-clip codes of other programs have prompts beside them too


@dataclass(frozen=True)
class Labelled:
    """A recording, or a file of its codes: `name` relative to the folder, or the name of the clip."""

    name: str
    source: str
    tags: tuple[str, ...]
    prompted: bool
    kind: str = "pack"


@dataclass
class Audit:
    """`sources` by "full" (every recording of the source has a prompt), "partial", "none"; `missing` by source the
    recordings without one; `kinds` where the labels came from; `tags` how often each occurs."""

    recordings: int = 0
    without: int = 0
    sources: dict[str, int] = field(default_factory=lambda: {"full": 0, "partial": 0, "none": 0})
    missing: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def audit(items: Iterable[Labelled]) -> Audit:
    """Count what `in_folder` or `in_pack` finds."""
    found, kinds, tags = Audit(), Counter[str](), Counter[str]()
    members: Counter[str] = Counter()
    for item in items:
        found.recordings += 1
        members[item.source] += 1
        kinds[item.kind] += 1
        tags.update(item.tags)
        if not item.prompted:
            found.without += 1
            found.missing.setdefault(item.source, []).append(item.name)
    for source, count in members.items():
        lost = len(found.missing.get(source, ()))
        found.sources["full" if not lost else "none" if lost == count else "partial"] += 1
    found.missing = {source: sorted(found.missing[source]) for source in sorted(found.missing)}
    found.kinds = dict(sorted(kinds.items()))
    found.tags = dict(sorted(tags.items(), key=lambda item: (-item[1], item[0])))
    return found


def in_pack(pack: Pack, aliases: Mapping[str, str] | None = None) -> Iterator[Labelled]:
    """The clips of a pack."""
    clips = pack.clips
    for name, source, tags, caption in zip(clips.clip, clips.source, clips.tags, clips.caption, strict=True):
        yield Labelled(name, source, apply_aliases(tags, aliases or {}), bool(tags or caption))


def in_folder(folder: Path, aliases: Mapping[str, str] | None = None) -> list[Labelled]:
    """The recordings and per-clip codes below a folder, with the labels that `encode` would give them.

    A source is what the labels call it; else the file's name without a number at its end ("song_03" of "song"), or what
    the labels of other files of that name call theirs. Raises SYS004, AUDIO001, PACK013.
    """
    labels = Labels(folder, aliases=aliases)
    rows = [(path, *labels.look(path)) for path in recordings(folder)]
    named: dict[str, set[str]] = {}
    for path, _, row in rows:
        if "source" in row:
            named.setdefault(_song(folder, path), set()).add(row["source"])
    shared = {source for sources in named.values() for source in sources}
    found = []
    for path, kind, row in rows:
        song = _song(folder, path)
        source = song
        if len(shared) > 1:  # one that all share is a credit line
            known = named.get(song, set())
            source = row.get("source") or (next(iter(known)) if len(known) == 1 else song)
        tags = tuple(row.get("tags", ()))
        found.append(Labelled(_relative(folder, path), source, tags, bool(tags or row.get("caption")), kind))
    return found


def recordings(folder: Path) -> list[Path]:
    """Audio and per-clip codes below a folder, sorted. Raises SYS004 (no such folder) and AUDIO001 (none there)."""
    if not folder.is_dir():
        raise PartimentoError("SYS004", f"{folder} is not a folder", next="check the path")
    wanted = AUDIO_SUFFIXES | CODE_SUFFIXES
    found = []
    for at, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [Path(at) / name for name in names if name[0] != "." and Path(name).suffix.lower() in wanted]
    if not found:
        raise PartimentoError(
            "AUDIO001",
            "no audio was found",
            where=str(folder),
            why="nor codes of single recordings (.pt, .npy, .npq)",
            next="give the folder that holds the recordings",
        )
    return sorted(found)


def _song(folder: Path, path: Path) -> str:
    stem = re.sub(r"[ ._-]*\d+$", "", path.stem) or path.stem
    return _relative(folder, path.parent / stem)


def _relative(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


# ---- rebuilding ------------------------------------------------------------------------------------------------


@dataclass
class Rebuilt:
    """`rows` to be added to tags.jsonl; `conflicts` {file: what was found}; `missing` files without any prompt; `kept`
    how many files have labels already and stay as they are."""

    folder: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    conflicts: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    kept: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rebuild(folder: Path, prompts: Sequence[Path], *, apply: bool = False) -> Rebuilt:
    """Find the lost prompts of the files below `folder` in the folders `prompts`, and with `apply` add them, as rows,
    to folder/tags.jsonl; rows and prompts that are there already are kept.

    In each folder, below the same subfolder and then at its top: the row or entry of that stem in its tags.jsonl and
    metadata.json, and the places of `labelfiles.prompt_places`. Two prompts that differ, or one for two files of the
    same stem in different subfolders, are a conflict and not written. Raises SYS004, AUDIO001, PACK013, SYS002.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as they are
    files = recordings(folder)
    for place in prompts:
        if not place.is_dir():
            raise PartimentoError("SYS004", f"{place} is not a folder", next="check the path after --from")
    labels = Labels(folder)
    stems = Counter(stem for stem, _ in {(path.stem, path.parent) for path in files})
    books = [_Book(Path(os.path.abspath(place))) for place in prompts]  # noqa: PTH100
    found = Rebuilt(str(folder))
    for path in files:
        name = _relative(folder, path)
        _, row = labels.look(path)
        if row.get("tags") or row.get("caption"):
            found.kept += 1
            continue
        subfolder = path.parent.relative_to(folder)
        near = [hit for book in books for hit in book.find(subfolder, path.stem)]
        hits = near or [hit for book in books for hit in book.find(Path(), path.stem)]
        if not hits:
            found.missing.append(name)
        elif len({tuple(one["tags"]) for _, one in hits}) > 1 or (not near and stems[path.stem] > 1):
            found.conflicts[name] = [f"{where}: {', '.join(one['tags'])}" for where, one in hits]
        else:
            found.rows.append({"file": name, **hits[0][1]})
    listed = {row["file"] for row in found.rows} & _listed(folder)
    for name in sorted(listed):  # a row without labels is somebody's word too
        found.conflicts[name] = ["its row in tags.jsonl says that it has no tags"]
    found.rows = [row for row in found.rows if row["file"] not in listed]
    if apply and found.rows:
        path = folder / "tags.jsonl"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        before += "" if before.endswith("\n") or not before else "\n"
        commit.text(path, before + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows))
    return found


def _listed(folder: Path) -> set[str]:
    path = folder / "tags.jsonl"
    if not path.is_file():
        return set()
    return {os.path.normpath(str(row.get("file"))) for _, row in labelfiles.lines(path)}


class _Book:
    """A folder of prompts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[Path, dict[str, list[tuple[str, dict[str, Any]]]]] = {}

    def find(self, subfolder: Path, stem: str) -> list[tuple[str, dict[str, Any]]]:
        """(place, labels) of every prompt for this stem in the subfolder."""
        at = self.folder / subfolder
        if at not in self._tables:
            self._tables[at] = self._read(at)
        found = list(self._tables[at].get(stem, ()))
        for place in labelfiles.prompt_places(at / f"{stem}.wav"):
            if place.is_file() and (row := labelfiles.prompt(place)):
                found.append((str(place), row))
        return found

    def _read(self, at: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        tables: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for name, read in (("tags.jsonl", read_manifest), ("metadata.json", read_metadata)):
            if (at / name).is_file():
                for file, row in read(at / name).items():
                    if row.get("tags") and Path(file).parent == at:
                        tables.setdefault(Path(file).stem, []).append((str(at / name), row))
        return tables

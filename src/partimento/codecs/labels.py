"""The labels of recordings: from which of the many places where people keep them.

For each recording the first of these that says anything: its row in the nearest tags.jsonl; its row in an audiocraft
manifest with the .json beside the recording; metadata.json; the .json; a prompt; the tags inside of the file. A file's
name is never a prompt, and a prompt without a word is none.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from partimento.audio import embedded
from partimento.audio.files import AUDIO_SUFFIXES
from partimento.errors import PartimentoError
from partimento.tokens import labelfiles
from partimento.tokens import tags as tagging

MANIFESTS = ("data.jsonl", "data.jsonl.gz")
MOST_LISTINGS = 64
LARGEST_JSON = 2**26  # bytes of a table that is one JSON value
Table = dict[str, dict[str, Any]]  # absolute path -> labels


class Labels:
    """The labels of the files below the folder `root`; `manifest` is a table that was given by name.

    `kinds` counts where the labels of the files asked for came from: "tags.jsonl", "manifest", "metadata.json", "json",
    "prompt", "file tags", "none".
    """

    def __init__(self, root: Path, *, aliases: Mapping[str, str] | None = None, manifest: Path | None = None) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - links stay as they are
        self.aliases = dict(aliases or {})
        self.kinds: Counter[str] = Counter()
        self._given = read_manifest(manifest) if manifest else {}
        self._tables: dict[Path, Table] = {}  # by the file that holds them
        self._listings: dict[Path, frozenset[str]] = {}

    def of(self, path: Path) -> dict[str, Any]:
        """{"tags": list, "caption", "licence", "source", "origin": strings} of a recording, only what is there.

        Raises PACK013 for labels that cannot be read.
        """
        kind, labels = self.look(path)
        self.kinds[kind] += 1
        return labels

    def look(self, path: Path) -> tuple[str, dict[str, Any]]:
        """As `of`, with the kind of place, and not counted."""
        path = Path(os.path.abspath(path))  # noqa: PTH100
        kind, labels = self._look(path)
        if "tags" in labels:
            labels = {**labels, "tags": list(tagging.apply_aliases(labels["tags"], self.aliases))}
        return kind, labels

    def unused(self, members: set[Path]) -> list[str]:
        """Files that a tags.jsonl names and that do not exist (a file that was only not chosen is none of them)."""
        chosen = {os.path.abspath(path) for path in members}  # noqa: PTH100
        tables = [table for at, table in self._tables.items() if at.name == "tags.jsonl"]
        named = {path for table in tables for path in table}
        return [os.path.relpath(path, self.root) for path in sorted(named - chosen) if not Path(path).exists()]

    def _look(self, path: Path) -> tuple[str, dict[str, Any]]:
        name = str(path)
        folders = self._folders(path)
        for folder in folders:
            table = self._table(folder / "tags.jsonl", lambda at: _rows(at, ("file",)))
            if name in table:
                return "tags.jsonl", table[name]
        with _beside():
            beside = self._sidecar(path)
        manifests = (self._table(at / file, lambda at: _rows(at, ("path",))) for at in folders for file in MANIFESTS)
        for table in (self._given, *manifests):
            if name in table and (labels := {**table[name], **beside}):
                return "manifest", labels
        metadata = self._table(path.parent / "metadata.json", read_metadata)
        if name in metadata:
            return "metadata.json", metadata[name]
        if beside:
            return "json", beside
        with _beside():
            for place in labelfiles.prompt_places(path):
                if self._is_there(place) and (labels := labelfiles.prompt(place)):
                    return "prompt", labels
        if path.suffix.lower() in AUDIO_SUFFIXES and (labels := _inside(path)):
            return "file tags", labels
        return "none", {}

    def _folders(self, path: Path) -> list[Path]:
        """The folders from the recording's own up to the root."""
        found = [path.parent]
        while found[-1] != self.root and self.root in found[-1].parents:
            found.append(found[-1].parent)
        return found

    def _sidecar(self, path: Path) -> dict[str, Any]:
        """The labels of the .json beside a recording."""
        beside = path.with_suffix(".json")
        if not self._is_there(beside):
            return {}
        return labelfiles.labels_of(labelfiles.json_object(labelfiles.text(beside), str(beside)), str(beside))

    def _table(self, path: Path, read: Callable[[Path], Table]) -> Table:
        if path not in self._tables:
            self._tables[path] = read(path) if self._is_there(path) else {}
        return self._tables[path]

    def _is_there(self, path: Path) -> bool:
        """Asked of one listing of the folder, not of the file system for each place of each recording."""
        if path.parent not in self._listings:
            if len(self._listings) == MOST_LISTINGS:
                self._listings.pop(next(iter(self._listings)))
            self._listings[path.parent] = _names(path.parent)
        return path.name in self._listings[path.parent]


@contextlib.contextmanager
def _beside() -> Iterator[None]:
    """Marks an error as one of a file that belongs to a single recording."""
    try:
        yield
    except PartimentoError as err:
        err.context["beside"] = True
        raise


def read_manifest(path: Path) -> Table:
    """The labels by file of a table that was given by name: .jsonl or .jsonl.gz with a "path" (audiocraft) or a "file"
    a line, or .json with a list of such objects. Relative paths are relative to its folder. Raises PACK013."""
    path = Path(os.path.abspath(path))  # noqa: PTH100
    if path.suffix != ".json":
        return _rows(path, ("path", "file"))
    rows = labelfiles.json_value(labelfiles.text(path, LARGEST_JSON), str(path))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise labelfiles.unreadable(str(path), "it is not a list of objects")
    table: Table = {}
    for number, row in enumerate(rows, 1):
        _add(table, path.parent, row, ("path", "file"), f"{path}, item {number}")
    return table


def manifest_files(path: Path) -> list[Path]:
    """The recordings that a manifest names, sorted, each once.

    Raises PACK013 (it cannot be read) and TAGS002 (it names none, or files that are not there).
    """
    found = [Path(name) for name in sorted(read_manifest(path))]
    missing = [file for file in found if not file.is_file()]
    if found and not missing:
        return found
    shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
    zipped = any(".zip:" in str(file) for file in missing)
    raise PartimentoError(
        "TAGS002",
        f"the manifest names {len(missing)} file(s) that are not there" if found else "the manifest names no file",
        where=str(path),
        why=(shown + ("; what lies in a zip archive must be unpacked first" if zipped else "")) or None,
        next="paths in a manifest are relative to its own folder, or absolute; mend them, or give the folder itself",
    )


def _rows(path: Path, keys: tuple[str, ...]) -> Table:
    table: Table = {}
    for where, row in labelfiles.lines(path):
        _add(table, path.parent, row, keys, where)
    return table


def _add(table: Table, folder: Path, row: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Put the labels of a row under its file. A second row of a file must say the same."""
    name = next((row[key] for key in keys if isinstance(row.get(key), str) and row[key]), None)
    if name is None:
        raise labelfiles.unreadable(where, f'it has no "{keys[0]}"')
    if "\0" in name or not _writable(name):
        raise labelfiles.unreadable(where, f'"{keys[0]}" cannot be the name of a file')
    file = os.path.abspath(os.path.join(folder, name))  # noqa: PTH100, PTH118 - called for each of millions of rows
    labels = labelfiles.labels_of(row, where)
    if table.setdefault(file, labels) != labels:
        raise labelfiles.unreadable(where, f"an earlier line says something else of {name}")


def _writable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def read_metadata(path: Path) -> Table:
    """file name -> {"text": prompt, ...}, as beside per-clip codes. JSON of another form is another program's."""
    content = labelfiles.json_value(labelfiles.text(path, LARGEST_JSON), str(path))
    if not isinstance(content, dict):
        return {}
    table: Table = {}
    for name, row in content.items():
        if isinstance(row, dict) and isinstance(row.get("text"), str) and "\0" not in name and _writable(name):
            labels = labelfiles.labels_of(
                {**row, "tags": row["text"].replace("\n", ","), "caption": row["text"]}, f"{path}, {name!r}"
            )
            if labels["tags"]:
                table[str(path.parent / name)] = labels
    return table


def _inside(path: Path) -> dict[str, Any]:
    """The labels inside of a file: genres are tags, a licence goes before a copyright notice. Who made it and what it
    is called is its origin, since as a caption it would make a prompt of a name."""
    found = embedded.strings(path)
    genres = found.get("genre", "").replace(";", ",").replace("/", ",").split(",")
    labels: dict[str, Any] = {
        "tags": list(tagging.clean(genres)),
        "licence": found.get("license") or found.get("copyright"),
        "origin": " - ".join(found[name] for name in ("artist", "album", "title") if name in found),
    }
    return {name: value for name, value in labels.items() if value}


def _names(folder: Path) -> frozenset[str]:
    """The files in a folder that may hold labels."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.name.endswith((".txt", ".json", ".jsonl", ".gz")))
    except OSError:  # prompts/ and audio_prompts/ need not exist
        return frozenset()

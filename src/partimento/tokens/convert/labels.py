"""Labels beside files of codes: our own metadata.jsonl, other programs' metadata.json, and prompt files.

For a file the first that says something counts, in this order: its row of metadata.jsonl in the source folder (what
`pack export` writes), its entry of metadata.json in its own folder or in the source folder, then the prompt files of
labelfiles.prompt_places (<stem>.txt beside it, prompts/<stem>.txt, prompts/<stem>_prompt.txt). Where none does there is
no prompt; the name of a file is never taken for one. Labels that are there and cannot be read are PACK013.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from partimento.tokens import labelfiles, npqtext
from partimento.tokens.convert.item import Labels
from partimento.tokens.labelfiles import unreadable
from partimento.tokens.tags import clean

EXPORTED = "metadata.jsonl"
LARGEST_MAP = 2**28  # bytes of a metadata.json
_STRINGS = ("clip", "source", "caption", "licence", "origin", "sha256")


class Beside:
    """The labels of the files below one source folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rows = _read_rows(root / EXPORTED)
        self._maps: dict[Path, dict[str, dict[str, Any]]] = {}

    def of(self, path: Path) -> Labels:
        """Raises PACK013 where labels are there and cannot be read."""
        name = path.relative_to(self.root).as_posix()
        if name in self._rows:
            return self._rows[name]
        labels = self._entry(path)
        if labels.caption or labels.tags:
            return labels
        for place in labelfiles.prompt_places(path):
            if place.is_file() and place != path and not _is_codes(place):
                found = labelfiles.prompt(place)
                if found:
                    kind = "/".join(place.parts[len(place.parts) - (1 if place.parent == path.parent else 2) :])
                    kind = kind.replace(path.stem, "<stem>")
                    return replace(labels, found=kind, tags=tuple(found["tags"]), caption=found["caption"])
        return labels

    def missing(self, names: set[str]) -> list[str]:
        """Files that metadata.jsonl names and that are not there."""
        return sorted(set(self._rows) - names)

    def _entry(self, path: Path) -> Labels:
        relative = path.relative_to(self.root)
        for folder in dict.fromkeys((path.parent, self.root)):
            if folder not in self._maps:
                self._maps[folder] = _read_map(folder / "metadata.json")
            keys = [relative.as_posix()] if folder != path.parent else []
            for key in (*keys, path.name, path.stem):
                if key in self._maps[folder]:
                    return from_entry(self._maps[folder][key], f"{folder / 'metadata.json'}, {key}")
        return Labels()


def prompted(text: str, found: str, labels: Labels | None = None) -> Labels:
    """A prompt is kept as the caption, word for word, and as tags, cut at its commas (as labelfiles.prompt does)."""
    tags = clean(text.replace("\n", ",").split(","))
    return replace(labels or Labels(), found=found, tags=tags, caption=text.strip()) if tags else labels or Labels()


def from_entry(entry: dict[str, Any], where: str) -> Labels:
    """Of an object {text | caption, tags, licence, source, origin, ...}; a `text` is a prompt of tags."""
    found = labelfiles.labels_of(entry, where)
    labels = Labels(
        found="metadata.json",
        source=found.get("source"),
        tags=tuple(found.get("tags", ())),
        caption=found.get("caption"),
        licence=found.get("licence"),
        origin=found.get("origin"),
        entry=entry,
    )
    text = entry.get("text")
    if text is not None and not isinstance(text, str):
        raise unreadable(where, '"text" must be a string')
    return labels if labels.caption or labels.tags or not text else prompted(text, "metadata.json", labels)


def tag_list(value: Any, where: str) -> list[str]:
    """Tags from a list of strings or a string cut at its commas."""
    if value is None:
        return []
    if isinstance(value, str):
        return value.split(",")
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return value
    raise unreadable(where, "tags must be a list of strings, or one string with commas")


def from_row(row: Mapping[str, Any], where: str, *, found: str) -> Labels:
    """A row as `pack export` writes it, word for word, every field of the kind that it must be."""
    for name in _STRINGS:
        if row.get(name) is not None and not isinstance(row[name], str):
            raise unreadable(where, f'"{name}" must be a string')
    samples = row.get("samples")
    if samples is not None and (type(samples) is not int or not 0 < samples < 2**62):
        raise unreadable(where, '"samples" must be a positive whole number')
    strings: dict[str, Any] = {name: row.get(name) for name in _STRINGS}
    numbers = {name: _number(row.get(name), name, where) for name in ("loudness", "peak")}
    tags = tuple(tag_list(row.get("tags"), where))
    return Labels(found, samples=samples, tags=tags, loudness=numbers["loudness"], peak=numbers["peak"], **strings)


def _number(value: Any, name: str, where: str) -> float | None:
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as err:
        raise unreadable(where, f'"{name}" must be a number') from err
    if number is not None and math.isnan(number):
        raise unreadable(where, f'"{name}" must be a number')
    return number


def _read_rows(path: Path) -> dict[str, Labels]:
    if not path.is_file():
        return {}
    rows: dict[str, Labels] = {}
    for where, row in labelfiles.lines(path):
        if not isinstance(row.get("file"), str) or row["file"] in rows:
            raise unreadable(where, 'it is not an object with a "file" of its own')
        rows[row["file"]] = from_row(row, where, found=EXPORTED)
    return rows


def _read_map(path: Path) -> dict[str, dict[str, Any]]:
    """metadata.json by file name, id, and the last part of `encoded_file` (whose folders are of another machine)."""
    if not path.is_file():
        return {}
    tree = labelfiles.json_object(labelfiles.text(path, LARGEST_MAP), str(path))
    if not all(isinstance(entry, dict) for entry in tree.values()):
        raise unreadable(str(path), "it is not an object of objects, one for each file")
    found: dict[str, dict[str, Any]] = {}
    for name, entry in tree.items():
        encoded = entry.get("encoded_file")
        if encoded is not None and not isinstance(encoded, str):
            raise unreadable(f"{path}, {name}", '"encoded_file" must be a string')
        found.setdefault(name, entry)
        if encoded:
            found.setdefault(PureWindowsPath(encoded).name, entry)  # either kind of slash
    return found


def _is_codes(path: Path) -> bool:
    with path.open("rb") as stream:
        return npqtext.is_text(stream.read(64))

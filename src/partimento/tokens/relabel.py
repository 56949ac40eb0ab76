"""Labels out of a pack as JSON lines, and back into it: what is to be changed, by clip, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import labelfiles
from partimento.tokens import tags as tagging
from partimento.tokens.edits import FIELDS
from partimento.tokens.pack import Pack
from partimento.tokens.store import local

_SPELLINGS = {"file": "clip", "license": "licence"}


@dataclass
class Changes:
    """`wanted` {clip: {field: new value}}, only what differs; `before` the same fields as they are; `rows` how many
    were read."""

    wanted: dict[str, dict[str, Any]] = field(default_factory=dict)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: int = 0

    @property
    def by_field(self) -> dict[str, int]:
        """How many clips change in each field."""
        counts = {name: sum(name in change for change in self.wanted.values()) for name in FIELDS}
        return {name: count for name, count in counts.items() if count}


def export(pack: Pack, path: Path) -> int:
    """Write the labels of every clip to `path`, one JSON object a line, and return how many. Raises TAGS009, FAR008."""
    path = local(path)
    if path.exists():
        raise PartimentoError(
            "TAGS009", f"{path} exists already", where=str(path), next="choose another name with --to, or remove it"
        )
    count = 0

    def write(tmp: Path) -> None:
        nonlocal count
        with tmp.open("w", encoding="utf-8", newline="\n") as stream:
            for row in _rows(pack):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1

    commit.file(path, write)
    return count


def changes(pack: Pack, labels: Path | None, aliases: Mapping[str, str] | None = None) -> Changes:
    """What the rows of the file `labels` change in a pack, and after that `aliases` in the tags of all its clips.

    Raises PACK013 (not JSON lines), TAGS007 (a row that cannot be used, a clip that is not in the pack or named twice).
    """
    wanted = _read(labels) if labels else {}
    found = Changes(rows=len(wanted))
    met: set[str] = set()
    for row in _rows(pack, None if not aliases else aliases.keys(), wanted):
        name = row["clip"]
        met.add(name)
        after = dict(wanted.get(name, {}))
        if aliases:
            after["tags"] = list(tagging.apply_aliases(after.get("tags", row["tags"]), aliases))
        after = {key: value for key, value in after.items() if value != row[key]}
        if after:
            found.wanted[name] = after
            found.before[name] = {key: row[key] for key in after}
    unknown = sorted(wanted.keys() - met)
    if unknown:
        near = tagging.nearest(unknown[0], pack.clips.clip, n=1) if len(pack.clips) < 100_000 else []
        raise _unusable(
            str(labels),
            f"{len(unknown)} of its clips are not in the pack, such as {unknown[0]!r}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
        )
    return found


def _rows(pack: Pack, tags: Any = None, clips: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The labels of the clips; with `clips`, only of those and of clips that have one of `tags`."""
    chosen = set(tags or ())
    for batch in pack.clips.batches(["clip", *FIELDS]):
        columns = pa.Table.from_batches([batch]).select(["clip", *FIELDS]).to_pydict()
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            if clips is None or row["clip"] in clips or not chosen.isdisjoint(row["tags"]):
                yield row


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """{clip: {field: value}} of the rows in a file."""
    if not path.is_file():
        raise PartimentoError("SYS004", f"{path} does not exist", next="check the path after --labels")
    wanted: dict[str, dict[str, Any]] = {}
    for where, raw in labelfiles.lines(path):
        row = {_SPELLINGS.get(key, key): value for key, value in raw.items()}
        name = row.pop("clip", None)
        if not isinstance(name, str) or not name:
            raise _unusable(where, 'it has no "clip"')
        if len(row) != len(raw) - 1:
            raise _unusable(where, "it names a field twice")
        for key in row:
            if key not in FIELDS:
                raise _unusable(where, f'"{key}" cannot be edited, only {", ".join(FIELDS)}')
        sound = labelfiles.labels_of(row, where)  # of the right kinds
        change = {key: value or None for key, value in row.items()}  # texts as they are, blanks and all
        if "tags" in change:
            change["tags"] = sound.get("tags", [])
        if name in wanted:
            raise _unusable(where, f"an earlier line is about {name!r} too")
        wanted[name] = change
    return wanted


def _unusable(where: str, why: str) -> PartimentoError:
    return PartimentoError(
        "TAGS007",
        "the changes cannot be used",
        where=where,
        why=why,
        next="mend that line; `partimento pack labels PACK --to FILE` writes the form",
    )

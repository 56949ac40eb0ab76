"""Edits: tags, captions, licences and origins are corrected in the clip table alone; codes are never touched.

Each edit is an immutable record edits/000001.json with the hashes before and after, and an entry in the history of
pack.json. The order of writing is table (under a new name), record, pack.json: whatever is killed in between leaves the
pack as it was. A pack that is made again from its journal has its edits applied again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import rows
from partimento.tokens.labelfiles import is_text
from partimento.tokens.manifest import checksum, fingerprint, table_of
from partimento.tokens.pack import Pack
from partimento.tokens.publish import commit_pack, locked, put_table
from partimento.tokens.store import local

FIELDS = ("tags", "caption", "licence", "origin")
Changes = Mapping[str, Mapping[str, Any]]


def edit(path: str | Path, changes: Changes, *, why: str) -> Pack:
    """Change fields of clips: {clip name: {field: value}}, the fields tags (list of str), caption, licence and origin
    (str or None). `why` is kept in the record. Changing nothing leaves no record.

    The fingerprint changes only if tags do; then runs that were trained on the pack refuse to go on with it.
    Raises PACK045 (unknown clip or field, wrong value), PACK047 (another edit is at work), what `Pack.open` raises,
    FAR008 (a URL), SYS002 (disk).
    """
    path = local(path)
    wanted = {str(clip): _checked(str(clip), change) for clip, change in changes.items()}
    if not is_text(why):
        raise _wrong(f"the reason {why!r} cannot be kept", "it is not UTF-8")
    with locked(path):
        pack = Pack.open(path)
        before, met = pack.content, set[str]()
        table, counts = put_table(path, before, rows.patched(pack.clips.batches(), wanted, met))
        unknown = sorted(wanted.keys() - met)
        same = table.sha256 == before["files"][table_of(before)]["sha256"]
        if unknown or same:
            if not same:
                (path / table.name).unlink()
            if unknown:
                raise _wrong(f"the pack has no clip {unknown[0]!r}", f"{len(unknown)} of {len(wanted)} are not in it")
            return pack
        number = f"{1 + sum(entry['edit'] is not None for entry in before['history']):06d}"
        content = {
            **before,
            "files": {
                **{name: facts for name, facts in before["files"].items() if name != table_of(before)},
                table.name: {"bytes": table.bytes, "sha256": table.sha256},
            },
            "clips": counts.essentials,
        }
        entry = {
            "what": "edit",
            "why": why,
            "edit": number,
            "was": pack.fingerprint,
            "fingerprint": fingerprint(content),
            "clips_sha256": table.sha256,
        }
        record = {**entry, "changes": wanted, "clips_sha256_was": before["files"][table_of(before)]["sha256"]}
        commit.record(record_path(path, number), {**record, "checksum": checksum(record)})
        return commit_pack(path, {**content, "history": [*before["history"], _recorded(path, entry)]})


def made(folder: Path, before: Mapping[str, Any] | None) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """The history of the pack that is there and the changes of all its edits, for making it again.

    Where pack.json is lost the records alone tell both. Raises PACK046 (a record is gone or damaged).
    """
    if before is not None:
        history = list(before["history"])
        records = [read_record(folder, entry["edit"]) for entry in history if entry["edit"] is not None]
    else:
        records = []
        while record_path(folder, number := f"{len(records) + 1:06d}").exists():
            records.append(read_record(folder, number))
        history = [_recorded(folder, {name: record[name] for name in _ENTRY}) for record in records]
    changes: dict[str, dict[str, Any]] = {}
    for record in records:
        for clip, change in record["changes"].items():
            changes.setdefault(clip, {}).update(change)
    return history, changes


_ENTRY = ("what", "why", "edit", "was", "fingerprint", "clips_sha256")


def _recorded(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the history with size and hash of its record."""
    place = record_path(folder, entry["edit"])
    return {**entry, "record": {"bytes": place.stat().st_size, "sha256": commit.sha256(place)}}


def record_path(folder: Path, number: str) -> Path:
    return folder / "edits" / f"{number}.json"


def read_record(folder: Path, number: str) -> dict[str, Any]:
    """The record of an edit, checked. Raises PACK046."""
    place = record_path(folder, number)
    try:
        record = json.loads(place.read_bytes())
        if record["checksum"] != checksum(record) or record["edit"] != number:
            raise ValueError("it does not match its checksum")
        for clip, change in record["changes"].items():
            _checked(clip, change)
        if any(not isinstance(record[name], str) for name in _ENTRY):
            raise ValueError("it does not say what was done")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, PartimentoError) as err:
        raise PartimentoError(
            "PACK046",
            f"the record of edit {number} is missing or damaged",
            where=str(place),
            why=str(err.strerror if isinstance(err, OSError) else err),
            next="bring the file back from a copy of the pack; the pack itself can still be read",
        ) from err
    return dict(record)


def _checked(clip: str, change: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in change.items():
        if name not in FIELDS:
            raise _wrong(f"{name!r} cannot be edited", f"only {', '.join(FIELDS)} can")
        if name == "tags":
            right = isinstance(value, Sequence) and not isinstance(value, str) and all(map(_is_kept, value))
            found[name] = list(value) if right else None
        else:
            right = value is None or _is_kept(value)
            found[name] = value
        if not right:
            raise _wrong(f"{name} of {clip} cannot be {value!r}", "tags are a list of texts, the others a text or null")
    return found


def _is_kept(value: Any) -> bool:
    return isinstance(value, str) and is_text(value)


def _wrong(message: str, why: str) -> PartimentoError:
    return PartimentoError("PACK045", message, why=why, next="correct the changes; nothing was written")

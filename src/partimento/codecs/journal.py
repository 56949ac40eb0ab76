"""The journal of an encode: one immutable record for each finished shard. It is the whole state that a killed encode
resumes from, so it is written after its shard, and believed only as far as the shard still fits it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens.clips import ClipRow
from partimento.tokens.pack import checksum
from partimento.tokens.shards import Shard

LOCK = "encode.lock"


@dataclass(frozen=True)
class Record:
    """What became of one unit: its shard (None if all was rejected), clips, rejects {"file", "code", "reason"}, what
    decoded them, how many were mixed down or resampled, and the versions of what may decide the codes."""

    unit: str
    number: int
    versions: dict[str, str]
    shard: Shard | None
    clips: list[ClipRow]
    rejects: list[dict[str, str]]
    decoders: list[str]
    downmixed: int
    resampled: int


def write(pack: Path, record: Record) -> None:
    content: dict[str, Any] = {
        "unit": record.unit,
        "number": record.number,
        "versions": record.versions,
        "shard": record.shard.to_json() if record.shard else None,
        "clips": [row.to_json() for row in record.clips],
        "rejects": record.rejects,
        "decoders": record.decoders,
        "downmixed": record.downmixed,
        "resampled": record.resampled,
    }
    commit.record(_path(pack, record.number), {**content, "checksum": checksum(content)})


def read(pack: Path, number: int, unit: str, versions: Mapping[str, str]) -> Record | None:
    """The record of this unit, if it is there, whole, made by the same decoders, and its shard is what it says."""
    try:
        tree = json.loads(_path(pack, number).read_bytes())
        if tree.pop("checksum") != checksum(tree) or tree["unit"] != unit or tree["versions"] != dict(versions):
            return None
        shard = Shard(**tree["shard"]) if tree["shard"] else None
        if shard and commit.sha256(pack / shard.file) != shard.sha256:
            return None
        clips = [ClipRow.from_json(row) for row in tree["clips"]]
        return Record(**{**tree, "shard": shard, "clips": clips})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # torn, damaged, missing or of another version: the unit is made anew


def begin(pack: Path, identity: Mapping[str, Any]) -> None:
    """Write journal/plan.json, or compare with the one that is there.

    Raises PACK010 where the folder holds something else, or an encode of other inputs, labels or codec.
    """
    path = pack / "journal" / "plan.json"
    if not path.exists():
        others = sorted(p.name for p in pack.iterdir() if p.name not in (LOCK, "journal"))
        if others:
            raise _other(pack, f"it is not empty and was not begun by an encode (it has {others[0]})")
        commit.record(path, identity)
        return
    try:
        begun = json.loads(path.read_bytes())
    except ValueError as err:
        raise _other(pack, f"its journal/plan.json is damaged ({err})") from err
    changed = [name for name in identity if begun.get(name) != json.loads(json.dumps(identity[name]))]
    if changed:
        raise _other(pack, f"other {' and '.join(changed)} than those that it was begun with")


@contextlib.contextmanager
def lock(pack: Path) -> Iterator[None]:
    """One encode at a time in `pack`. The lock goes with its process, however that ends; its file when work is done."""
    path = pack / LOCK
    while True:
        with commit.disk_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(handle)
            raise PartimentoError(
                "PACK014", f"another encode is writing into {pack}", where=str(path), next="wait for it, or end it"
            ) from err
        # The one before may have removed the file between our opening and locking it; then this lock is of no use.
        if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
            break
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _path(pack: Path, number: int) -> Path:
    return pack / "journal" / f"{number:06d}.json"


def _other(pack: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK010",
        f"{pack} cannot take this encode",
        where=str(pack),
        why=why,
        next=f"choose a new folder with --to, or delete {pack}",
    )

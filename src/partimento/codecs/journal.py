"""The journal of an encode: one immutable record for each finished shard. It is the whole state that a killed encode
resumes from, so it is written after its shard, and believed only as far as the shard still fits it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import publish
from partimento.tokens.clips import ClipRow
from partimento.tokens.pack import checksum
from partimento.tokens.shards import Shard

LOCK = "encode.lock"
CLAIMS = "claims"


@dataclass(frozen=True)
class Record:
    """What became of one unit: its shard (None if all was rejected), clips, rejects {"file", "code", "reason"} and the
    sha256 (`hashes`) of those files, what decoded them, how many were mixed down, up or resampled, and the versions of
    what may decide the codes."""

    unit: str
    number: int
    versions: dict[str, str]
    shard: Shard | None
    clips: list[ClipRow]
    rejects: list[dict[str, str]]
    hashes: dict[str, str]
    decoders: list[str]
    downmixed: int
    upmixed: int
    resampled: int


def write(pack: Path, record: Record) -> None:
    content: dict[str, Any] = {
        "unit": record.unit,
        "number": record.number,
        "versions": record.versions,
        "shard": record.shard.to_json() if record.shard else None,
        "clips": [row.to_json() for row in record.clips],
        "rejects": record.rejects,
        "hashes": record.hashes,
        "decoders": record.decoders,
        "downmixed": record.downmixed,
        "upmixed": record.upmixed,
        "resampled": record.resampled,
    }
    commit.record(path_of(pack, record.number), {**content, "checksum": checksum(content)})


def read(pack: Path, number: int, unit: str, versions: Mapping[str, str], *, full: bool = True) -> Record | None:
    """The record of this unit, if it is there, whole, made by the same decoders, and its shard is what it says.

    `full` hashes the shard; else only its size is compared. Raises PACK030 where another version of what decides the
    codes made it and `full` is off, that is, among encodes that share the work: they would undo each other's.
    """
    try:
        tree = json.loads(path_of(pack, number).read_bytes())
        if tree.pop("checksum") != checksum(tree) or tree["unit"] != unit:
            return None
        shard = Shard(**tree["shard"]) if tree["shard"] else None
        if shard and (pack / shard.file).stat().st_size != shard.bytes:
            return None
        other = {name for name in {*tree["versions"], *versions} if tree["versions"].get(name) != versions.get(name)}
        if other and not full:
            raise _mixed(pack, tree["versions"], versions, sorted(other))
        if other or (full and shard and commit.sha256(pack / shard.file) != shard.sha256):
            return None
        clips = [ClipRow.from_json(row) for row in tree["clips"]]
        return Record(**{**tree, "shard": shard, "clips": clips})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # torn, damaged, missing or of another version: the unit is made anew


def modified(pack: Path, number: int) -> int:
    """When the record was written, in ns; 0 where there is none."""
    try:
        return path_of(pack, number).stat().st_mtime_ns
    except OSError:
        return 0


def begin(pack: Path, identity: Mapping[str, Any], *, dry_run: bool = False) -> None:
    """Write journal/plan.json (`dry_run`: nothing), or compare with the one that is there.

    Raises PACK010 where the folder holds something else, or an encode of other inputs, labels or codec.
    """
    path = pack / "journal" / "plan.json"
    if not path.exists():
        others = sorted(p.name for p in pack.iterdir() if p.name not in (LOCK, publish.LOCK, "journal"))
        if others and not path.exists():  # one that began in between has written its plan before all else
            err = _other(pack, f"it is not empty and was not begun by an encode (it has {others[0]})")
            err.next = "choose a new folder with --to"  # what is in this one may be anything
            raise err
        if not others:
            if not dry_run:
                commit.record(path, identity)
            return
    try:
        begun = json.loads(path.read_bytes())
    except ValueError as err:
        raise _other(pack, f"its journal/plan.json is damaged ({err})") from err
    now = json.loads(json.dumps(identity))
    changed = [name for name in dict.fromkeys([*now, *begun]) if begun.get(name) != now.get(name)]
    if changed:
        raise _other(pack, f"other {' and '.join(changed)} than those that it was begun with")


@contextlib.contextmanager
def lock(pack: Path, *, shared: bool = False) -> Iterator[None]:
    """One plain encode at a time in `pack`, or any number that share the work. Raises PACK014.

    The lock goes with its process, however that ends. Who leaves last takes away what killed writers left behind, and
    the lock's file.
    """
    path = pack / LOCK
    handle = _locked(path, shared)
    try:
        if not shared:
            sweep(pack)
        yield
    finally:
        try:
            if shared:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep(pack)
            path.unlink(missing_ok=True)
        except OSError:
            pass  # others are still at work, or this file system has no locks
        finally:
            os.close(handle)


def _locked(path: Path, shared: bool) -> int:
    while True:
        with commit.disk_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(handle)
            raise PartimentoError(
                "PACK014",
                f"another encode is writing into {path.parent}",
                where=str(path),
                next="wait for it, or end it; encodes share the work if all of them have --claim (or --shard i/n)",
            ) from err
        except OSError as err:
            if shared and err.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return handle  # it only keeps plain encodes out, and cleaning up for the last one
            os.close(handle)
            with commit.disk_errors(path):
                raise
        # The one before may have removed the file between our opening and locking it; then this lock is of no use.
        try:
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def sweep(pack: Path) -> None:
    """Remove what killed writers left behind: all of it, so only for one who is alone in `pack` by the lock."""
    for folder in (pack / "journal", pack / "shards"):
        _remove_unfinished(folder)
    with contextlib.suppress(PartimentoError), publish.locked(pack):  # not where an edit is at work on the tables
        _remove_unfinished(pack)
    shutil.rmtree(pack / CLAIMS, ignore_errors=True)


def _remove_unfinished(folder: Path) -> None:
    for left in folder.glob(f"*{commit.TMP}*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def path_of(pack: Path, number: int) -> Path:
    return pack / "journal" / f"{number:06d}.json"


def _mixed(pack: Path, theirs: Mapping[str, str], ours: Mapping[str, str], names: list[str]) -> PartimentoError:
    return PartimentoError(
        "PACK030",
        f"the encodes that share {pack} are not alike",
        where=str(pack / "journal"),
        why="; ".join(f"{name}: {theirs.get(name)} there, {ours.get(name)} here" for name in names),
        next="run all of them in the same environment, on the same kind of device; or encode into a new folder",
    )


def _other(pack: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK010",
        f"{pack} cannot take this encode",
        where=str(pack),
        why=why,
        next=f"choose a new folder with --to, or delete {pack}",
    )

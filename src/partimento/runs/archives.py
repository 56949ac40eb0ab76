"""Archives: checkpoints of a run under a name with the time (UTC), which the pruning of checkpoints does not touch.

    runs/ID/archives/20261120T161000Z-step-000000400/          the same files as the checkpoint had
    runs/ID/archives/20261120T164500Z-step-000000600-best/     one that was the best so far: never pruned

Where the file system can, files are hard links: no bytes are copied, and a checkpoint that is pruned later leaves its
archive whole. They share their fate on the disk; a second place is what a copy elsewhere is for.
"""

from __future__ import annotations

import datetime
import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from partimento import commit
from partimento.runs import checkpoint

FOLDER = "archives"
_NAME = re.compile(r"(\d{8}T\d{6}Z)-step-(\d{9})(-best)?")
# What says that there are no links here or to there, and nothing of the disk.
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


@dataclass(frozen=True)
class Archive:
    """One archived checkpoint; `checkpoint.load` reads it."""

    path: Path
    time: datetime.datetime
    step: int
    best: bool


def archive(run_path: Path, checkpoint_path: Path, keep: int, best: bool = False) -> Path:
    """Archive a committed checkpoint and return where; of archives that were not the `best`, the newest `keep` stay.

    Every file is verified under its new name before the archive is visible. Raises CKPT001 (the checkpoint is damaged)
    and SYS002; the archives that are there stay untouched then.
    """
    folder, source = Path(run_path) / FOLDER, Path(checkpoint_path)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    path = folder / f"{now}-{source.name}{'-best' if best else ''}"
    if path.exists():  # within one second: the same checkpoint, which does not change
        return path
    files = [file for part in checkpoint.contents(source).values() for file in part]
    with commit.folder(path) as tmp:
        for file in [*files, source / "state.json", source / "manifest.json"]:
            _link(file, tmp / file.relative_to(source))
        checkpoint.verify(tmp)
    _prune(folder, keep)
    return path


def listing(run_path: Path) -> list[Archive]:
    """All archives of a run, the oldest first."""
    folder = Path(run_path) / FOLDER
    found = []
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if match := _NAME.fullmatch(path.name):
            time = datetime.datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
            found.append(Archive(path, time, int(match[2]), match[3] is not None))
    return found


def _prune(folder: Path, keep: int) -> None:
    commit.sweep(folder)
    plain = [found.path for found in listing(folder.parent) if not found.best]
    checkpoint.remove(folder, plain[: max(0, len(plain) - keep)])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError as err:
        if err.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)

"""Commit by rename: the only way in which partimento puts a file or a folder where a reader may find it.

Write beside, fsync, rename, fsync the folder. A killed process leaves at most a `.tmp` name, which readers never look
at and the next writer removes. A full disk ends in SYS002 and leaves the previous version in place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError

TMP = ".tmp"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write below `path` into SYS002 with the system's own reason."""
    try:
        yield
    except OSError as err:
        if err.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EIO,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
            errno.EMFILE,
        ):
            raise
        raise PartimentoError(
            "SYS002",
            f"cannot write {path}",
            why=err.strerror,
            next="free some space (df -h .) or choose another folder, then run the same command again",
            errno=err.errno,
        ) from err


def file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(temporary_path)` make a file, then put it at `path`, whole or not at all."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last, since some writers (soundfile, parquet) go by it.
        tmp = path.with_name(f"{path.stem}.{os.getpid()}{TMP}{path.suffix}")
        try:
            write(tmp)
            _fsync(tmp)
            tmp.replace(path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
        _fsync(path.parent)


def data(path: Path, content: bytes) -> None:
    """Put bytes at `path`."""
    file(path, lambda tmp: _write(tmp, content))


def text(path: Path, content: str) -> None:
    data(path, content.encode("utf-8"))


def record(path: Path, content: Any) -> None:
    """Put JSON at `path`: keys sorted, one trailing newline, so that equal content is equal bytes."""
    data(path, record_bytes(content))


def record_bytes(content: Any) -> bytes:
    """The one form in which `record` writes this content."""
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Fill the folder that is yielded; on leaving, every file in it is fsynced and it is renamed to `path`.

    `path` must not exist: folders that readers trust are immutable.
    """
    path = Path(path)
    tmp = path.with_name(path.name + TMP)
    with disk_errors(path):
        if tmp.exists():
            shutil.rmtree(tmp)
        tmp.mkdir(parents=True)
        try:
            yield tmp
            for item in sorted(tmp.rglob("*")):
                _fsync(item)
            _fsync(tmp)
            tmp.rename(path)
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise
        _fsync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add one line to a log. A torn last line (power loss) is closed first, so that it costs itself only."""
    with disk_errors(path), Path(path).open("ab+") as log:
        if log.tell() and not _ends_with_newline(log):
            log.write(b"\n")
        log.write(line.encode("utf-8") + b"\n")
        log.flush()


def sha256(path: Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(parent: Path) -> None:
    """Remove what killed writers left behind in `parent`."""
    for left in Path(parent).glob(f"*{TMP}*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)


def _ends_with_newline(log: Any) -> bool:
    log.seek(-1, os.SEEK_END)
    return bool(log.read(1) == b"\n")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

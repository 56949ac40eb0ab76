"""Commit by rename: the only way in which partimento puts a file or a folder where a reader may find it.

Write beside, fsync, rename, fsync the folder. A killed process leaves at most a `.tmp` name, which readers never look
at and a later writer removes (`sweep`). A full disk ends in SYS002 and leaves the previous version in place. Temporary
names say machine and process, so that many of both may write into one folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError

TMP = ".tmp"
_TAG = re.compile(r"\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.tmp")
_ABANDONED_SECONDS = 24 * 3600
# What a disk, a file system or the limits of the process may answer; anything else is a fault of the program.
_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE),
    *(errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write below `path` into SYS002 with the system's own reason."""
    try:
        yield
    except OSError as err:
        if err.errno not in _DISK:
            raise
        raise PartimentoError(
            "SYS002",
            f"cannot write {path}",
            why=err.strerror,
            next=_remedy(err.errno),
            errno=err.errno,
        ) from err


def _remedy(number: int) -> str:
    if number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return "choose another place: something else is in the way there"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder that you may write into, then run the same command again"
    return "free some space (df -h .) or choose another folder, then run the same command again"


@contextlib.contextmanager
def machine_errors(path: Path) -> Iterator[None]:
    """Turn a failed read of `path` into SYS002 where it says nothing of the file: no descriptors or memory are left."""
    try:
        yield
    except OSError as err:
        if err.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise PartimentoError(
            "SYS002",
            f"cannot open {path}",
            why=err.strerror,
            next="close other programs, or allow more open files (ulimit -n 65536), then run the same command again",
            errno=err.errno,
        ) from err


def file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(temporary_path)` make a file, then put it at `path`, whole or not at all."""
    with scratch(path) as tmp:
        write(tmp)
        place(tmp, path)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, for a file that is gone afterwards unless `place` put it somewhere."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last, since some writers (soundfile, parquet) go by it.
        tmp = path.with_name(f"{_short(path.stem)}.{_tag()}{TMP}{path.suffix}")
        try:
            yield tmp
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
        tmp.unlink(missing_ok=True)


def place(tmp: Path, path: Path) -> None:
    """Put the finished file `tmp` at `path` in the same folder: fsync, rename, fsync the folder."""
    with disk_errors(path):
        _fsync(tmp)
        tmp.replace(path)
        _fsync(Path(path).parent)


def data(path: Path, content: bytes | Sequence[bytes | memoryview]) -> None:
    """Put bytes, or parts one after another, at `path`."""
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

    `path` must not exist: folders that readers trust are immutable. What dead writers of `path` left is removed first.
    """
    path = Path(path)
    tmp = path.with_name(f"{_short(path.name)}.{_tag()}{TMP}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, f"{glob.escape(_short(path.name))}.")
        tmp.mkdir()
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


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`. The lock goes with its process, however that ends; its file when the work is done.

    Raises BlockingIOError where another holds it (unless told to `wait`), OSError where the file system has no locks.
    """
    while True:
        with disk_errors(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The one before may have removed the file between our opening and locking it; then this lock is of no use.
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def append_line(path: Path, line: str) -> None:
    """Add one line to a log. A torn last line (power loss) is closed first, so that it costs itself only."""
    with disk_errors(path), Path(path).open("ab+") as log:
        if log.tell() and not _ends_with_newline(log):
            log.write(b"\n")
        log.write(line.encode("utf-8") + b"\n")
        log.flush()


def sha256(path: Path) -> str:
    """Of a file. Raises OSError where it cannot be read, but SYS002 where the machine is at fault, and not the file."""
    with machine_errors(path), open(path, "rb", opener=regular) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def regular(path: str, flags: int) -> int:
    """An `opener` of regular files only: a pipe would keep its reader waiting for ever, a device may have no end."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return handle


def sweep(parent: Path, begins: str = "") -> None:
    """Remove what dead writers left behind in `parent`: names of a process of this machine that is gone, or any that
    nobody has touched for a day. Others may be at work in the same folder, on this machine and elsewhere."""
    for left in Path(parent).glob(f"{begins}*{TMP}*"):
        if _dead(left):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _dead(left: Path) -> bool:
    tag = _TAG.search(left.name)
    if tag is not None and tag["machine"] == machine():
        return not alive(int(tag["process"]))
    try:
        touched = max(item.stat().st_mtime for item in [left, *(left.rglob("*") if left.is_dir() else ())])
    except OSError:
        return False  # it has just been renamed or removed: somebody is at work on it
    return time.time() - touched > _ABANDONED_SECONDS


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@functools.cache
def machine() -> str:
    """Of this machine since it was started, as far as process numbers mean the same: containers that share a folder
    and a host name still have their own."""
    known = [platform.node()]
    with contextlib.suppress(OSError):  # systems without /proc
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:8]


def _tag() -> str:
    """A part of a name that no other writer, thread or machine uses."""
    return f"{machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def _short(name: str) -> str:
    """A name that still fits into a directory entry (255 bytes) with a tag and a suffix behind it."""
    return os.fsencode(name)[:160].decode(errors="ignore")


def _write(path: Path, content: bytes | Sequence[bytes | memoryview]) -> None:
    with path.open("wb") as stream:
        stream.writelines([content] if isinstance(content, bytes) else content)


def _ends_with_newline(log: Any) -> bool:
    log.seek(-1, os.SEEK_END)
    return bool(log.read(1) == b"\n")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cache_home() -> Path:
    """Where what can be made again is kept between starts: $PARTIMENTO_CACHE, or partimento/ in the user's cache."""
    named = os.environ.get("PARTIMENTO_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "partimento"

"""A far store, seen through fsspec, that is not trusted to answer: every request has a time limit and some tries."""

from __future__ import annotations

import hashlib
import queue
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from partimento import commit
from partimento.errors import PartimentoError

BLOCK = 8 * 2**20
TRIES = 4
MEND = "copy that file to the store again from where the pack was made"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):/+(.*)", re.DOTALL)
_FOLDERS = ("file", "local")
_Answer = TypeVar("_Answer")


def is_far(path: str | Path) -> bool:
    """Whether this names a place that fsspec reads, not a folder. (`Path` makes s3:/x of s3://x; both are meant.)"""
    return _URL.fullmatch(str(path)) is not None


def is_folder(path: str | Path) -> bool:
    """Whether this names a place of this machine's file system, also as a URL: file:///data/pack."""
    return not is_far(path) or str(path).partition(":")[0] in _FOLDERS


def url_of(path: str | Path) -> str:
    """The URL as fsspec wants it, without a slash at its end."""
    found = _URL.fullmatch(str(path))
    if found is None:
        raise ValueError(f"{path} is no URL")
    slash = "/" if found[1] in _FOLDERS else ""
    return f"{found[1]}://{slash}{found[2]}".rstrip("/")


def local(path: str | Path) -> Path:
    """Where on this machine `path` is, for what is made or changed there. Raises FAR008 for a URL of another store.

    Without this, a URL would be taken for a folder: s3://x is s3:/x to the file system.
    """
    if not is_far(path):
        return Path(path)
    url = url_of(path)
    if is_folder(path):
        return Path(url.partition("://")[2] or "/")
    raise PartimentoError(
        "FAR008",
        "this is made or changed in a folder only, and that is a URL",
        where=url,
        next="give a folder, and bring packs from and to the store with: partimento pack copy",
    )


class Store:
    """The files below one URL. `options` go to the fsspec file system, which also reads its own configuration
    (FSSPEC_S3_ENDPOINT_URL and the like).

    A request that gives nothing for `stall_seconds` counts as failed. Each is tried four times with pauses that double.
    Raises FAR002 where no driver for the URL is installed.
    """

    def __init__(self, url: str | Path, *, stall_seconds: float = 60.0, pause: float = 0.5, **options: Any) -> None:
        self.url = url_of(url)
        self._stall, self._pause = stall_seconds, pause
        import fsspec

        protocol = self.url.partition(":")[0]
        if protocol == "s3":  # botocore's own five tries would multiply ours, and its minutes of patience too
            patience = {"connect_timeout": stall_seconds, "read_timeout": stall_seconds, "retries": {"max_attempts": 1}}
            options = {"config_kwargs": patience, **options}
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as err:
            extra = "pip install 'partimento[s3]'" if protocol == "s3" else "pip install the fsspec driver named above"
            raise PartimentoError(
                "FAR002", f"{protocol}:// cannot be opened here", where=self.url, why=str(err), next=extra
            ) from err

    def where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def size(self, name: str) -> int:
        """Bytes of a file. Raises FAR001 where it is not there, FAR003, FAR005."""
        found = self._ask(name, lambda: self._fs.info(self._path(name))["size"])
        if not isinstance(found, int) or found < 0:
            raise self._broken(name, f"the store does not say how long it is ({found!r})")
        return found

    def read(self, name: str, first: int, last: int, whole: int) -> bytes:
        """Bytes first..last-1 of a file that has `whole` bytes. Raises as `size`, FAR003 where fewer come."""

        def request() -> bytes:
            content: bytes = self._fs.cat_file(self._path(name), start=first, end=last)
            if len(content) == whole > last - first:  # a server that does not know ranges
                content = content[first:last]
            if len(content) != last - first:
                raise EOFError(f"{len(content)} of {last - first} bytes came")
            return content

        return self._ask(name, request)

    def bring(self, name: str, to: Path, size: int, sha256: str) -> None:
        """Put a file at `to` if, and only if, it is `size` bytes of this sha256. Raises as `read`; FAR004 where what
        arrives is something else, twice; SYS002 (disk)."""

        def write(tmp: Path) -> None:
            with tmp.open("wb") as file:
                self._bring(name, size, sha256, file.write)

        _twice(lambda: commit.file(to, write))

    def check(self, name: str, size: int, sha256: str | None) -> None:
        """Raise FAR004 unless the file has `size` bytes and, where it is given, this sha256; others as `read`."""
        _twice(lambda: self._bring(name, size, sha256, lambda block: None))

    def _bring(self, name: str, size: int, sha256: str | None, take: Callable[[bytes], object]) -> None:
        wrong, digest = "", hashlib.sha256()
        if (there := self.size(name)) != size:
            wrong = f"it has {there} bytes where {size} are recorded"
        elif sha256 is not None:
            for first in range(0, size, BLOCK):
                block = self.read(name, first, min(first + BLOCK, size), size)
                digest.update(block)
                take(block)
            if digest.hexdigest() != sha256:
                wrong = f"its sha256 is {digest.hexdigest()[:16]}..., recorded is {sha256[:16]}..."
        if wrong:
            raise PartimentoError(
                "FAR004",
                f"{name} does not arrive as it was recorded",
                where=self.where(name),
                why=wrong,
                next=MEND,
            )

    def send(self, file: Path, name: str) -> None:
        """Copy a local file there. Raises FAR006 where it does not come to be there whole."""
        try:
            self._ask(name, lambda: self._fs.put_file(str(file), self._path(name)))
            there = self.size(name)
        except PartimentoError as err:
            raise PartimentoError(
                "FAR006",
                f"{name} cannot be written",
                where=self.where(name),
                why=err.why,
                next="check the rights",
            ) from err
        if there != file.stat().st_size:
            raise PartimentoError(
                "FAR006",
                f"{name} was not written whole",
                where=self.where(name),
                why=f"{there} of {file.stat().st_size} bytes are there",
                next="run the same command again",
            )

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except PartimentoError as err:
            if err.code == "FAR001":
                return False
            raise
        return True

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _ask(self, name: str, request: Callable[[], _Answer]) -> _Answer:
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                return _in_time(request, self._stall)
            except (FileNotFoundError, PermissionError) as err:
                # fsspec's http driver says "not found" of everything; what it was stands in the cause.
                cause = err.__cause__
                status = getattr(cause, "status", 404 if isinstance(err, FileNotFoundError) else 403)
                if status in (401, 403, 404, 410) and not isinstance(cause, OSError):
                    raise self._denied(name, status, err) from err
                reason = f"{cause}" if isinstance(cause, OSError) else f"status {status}"
            except MemoryError:
                raise
            except Exception as err:  # drivers are plug-ins: each has errors of its own (aiohttp, botocore, ...)
                if "Credential" in type(err).__name__:  # botocore's: it has none, or half of them
                    raise self._denied(name, 401, err) from err
                reason = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
        raise self._broken(name, f"{reason} ({TRIES} tries)")

    def _denied(self, name: str, status: int, err: Exception) -> PartimentoError:
        where, why = self.where(name), str(err) or None
        if status in (404, 410):
            return PartimentoError("FAR001", f"{name} is not there", where=where, why=why, next="check the URL")
        return PartimentoError(
            "FAR005",
            f"the store refuses {name}",
            where=where,
            why=why,
            next="check the credentials that fsspec's driver uses",
        )

    def _broken(self, name: str, why: str) -> PartimentoError:
        return PartimentoError(
            "FAR003",
            f"the store does not give {name}",
            where=self.where(name),
            why=why,
            next="try again later; what arrived is kept in the cache",
        )


def _twice(attempt: Callable[[], None]) -> None:
    """Again where it was not as recorded: it may have been damaged on the way, or written just then."""
    try:
        attempt()
    except PartimentoError as err:
        if err.code != "FAR004":
            raise
        attempt()


def _in_time(request: Callable[[], _Answer], seconds: float) -> _Answer:
    """The answer, or TimeoutError. A request that never ends keeps its (daemon) thread: drivers cannot be stopped."""
    box: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((True, request()))
        except BaseException as err:  # handed to the asking thread, whatever it is
            box.put((False, err))

    threading.Thread(target=run, daemon=True).start()
    try:
        good, value = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"nothing came for {seconds:g} s") from None
    if good:
        return value
    raise value

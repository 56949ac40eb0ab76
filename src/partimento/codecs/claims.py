"""Claims: encodes that share a folder, perhaps from several machines, tell each other which units they are at.

A claim is a file that only one process can create (O_EXCL), touched while that lives. It can be taken over when its
process is gone (seen at once on the same machine) or silent for a minute. Claims only save work: should two processes
ever hold the same unit, both write the same bytes, each by rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
from pathlib import Path
from types import TracebackType

from partimento import commit
from partimento.codecs.journal import CLAIMS

LEASE_SECONDS = 60.0
BEAT_SECONDS = 10.0
_HALF_WRITTEN_SECONDS = 2.0  # a claim that names nobody: its process ended between creating and filling it


class Claims:
    """The claims of this process in `pack`; a context, which releases them."""

    def __init__(self, pack: Path) -> None:
        self._folder = pack / CLAIMS
        self._token = secrets.token_hex(8)
        self._owner = {"host": _host(), "pid": os.getpid(), "began": _began(os.getpid()), "token": self._token}
        self._mine: set[Path] = set()
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Claims:
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beat.join()
        for path in list(self._mine):
            self._drop(path)
        with contextlib.suppress(OSError):  # not empty: others are at work
            self._folder.rmdir()

    @property
    def start(self) -> float:
        """Where in the work this process begins, 0 to 1, so that not all ask for the same units."""
        return int(self._token, 16) / 16 ** len(self._token)

    def take(self, number: int) -> bool:
        """Claim unit `number`; False where another one has it."""
        path = self._folder / f"{number:06d}"
        with commit.disk_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            if not self._create(path) and not (self._abandoned(path) and self._create(path)):
                return False
        self._mine.add(path)
        return True

    def release(self, number: int) -> None:
        self._drop(self._folder / f"{number:06d}")

    def _create(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except (FileExistsError, FileNotFoundError):  # claimed; or the pack was finished and the folder is gone
            return False
        with os.fdopen(handle, "wb") as stream:
            stream.write(json.dumps(self._owner).encode())
        return True

    def _abandoned(self, path: Path) -> bool:
        """Whether the claim is nobody's any more; then it is out of the way."""
        try:
            seen = path.read_bytes()
            silent = self._now() - path.stat().st_mtime
        except FileNotFoundError:
            return True
        if not self._is_dead(seen, silent):
            return False
        aside = self._folder / f"{path.name}.{self._token}{commit.TMP}"
        try:
            path.rename(aside)  # only one can do this
        except FileNotFoundError:
            return False
        if aside.read_bytes() != seen:  # another one took it over and claimed it in between
            with contextlib.suppress(OSError):
                aside.rename(path)
            return False
        aside.unlink(missing_ok=True)
        return True

    def _is_dead(self, claim: bytes, silent: float) -> bool:
        try:
            owner = json.loads(claim)
            host, pid, began = owner["host"], int(owner["pid"]), owner["began"]
        except (ValueError, KeyError, TypeError):
            return silent > _HALF_WRITTEN_SECONDS
        if host == self._owner["host"] and _began(pid) != began:
            return True
        return silent > LEASE_SECONDS

    def _now(self) -> float:
        """The time by the clock of the file system, which may be another machine's."""
        probe = self._folder / f"{self._token}{commit.TMP}"
        probe.touch()
        os.utime(probe)
        now = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
        return now

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            for path in list(self._mine):
                with contextlib.suppress(OSError):  # taken over while this process was asleep: the work is done twice
                    os.utime(path)

    def _drop(self, path: Path) -> None:
        self._mine.discard(path)
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_bytes()).get("token") == self._token:
                path.unlink()


def _host() -> str:
    """Processes can only be looked up on the machine, since its start, and in the container that they run in."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _began(pid: int) -> str | None:
    """When the process began, in words that only serve to compare; None where there is none (or only its remains)."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"

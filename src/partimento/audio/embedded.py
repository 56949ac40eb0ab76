"""The tags that stand inside of audio files (Vorbis comments, ID3, LIST INFO), read by libsndfile in a child process.

A damaged file has no tags here and no error: what is wrong with it is told once, when its audio is read.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile

from partimento import isolated

STALL_SECONDS = 20.0
MEMORY = 2 << 30
LONGEST = 4096  # characters of one string
_FIELDS = ("title", "artist", "album", "genre", "license", "copyright")


class Reader:
    """The child that reads them. One crash or hang costs the strings of one file."""

    def __init__(self, *, stall_seconds: float = STALL_SECONDS) -> None:
        command = (sys.executable, "-m", "partimento.audio.embedded")
        self.child = isolated.Child(command, stall_seconds=stall_seconds, longest=1 << 20)
        self._lock = threading.Lock()

    def strings(self, path: Path) -> dict[str, str]:
        """Those of title, artist, album, genre, license, copyright that the file has."""
        request = {"path": os.fsdecode(Path(path).absolute())}
        with self._lock, contextlib.suppress(isolated.Lost), self.child.ask(request) as message:
            found = json.loads(message(b"S")[1])
            message(b"E")
            return dict(found)
        return {}

    def close(self) -> None:
        with self._lock:
            self.child.close()


_shared: tuple[int, Reader] | None = None


def strings(path: Path) -> dict[str, str]:
    """As Reader.strings, by the calling process's own child."""
    global _shared
    if _shared is None or _shared[0] != os.getpid():
        _shared = (os.getpid(), Reader())
        atexit.register(_shared[1].close)
    return _shared[1].strings(path)


def read(path: Path) -> dict[str, str]:
    """In this process. What libsndfile could not decode (its replacement character shows it) is left out."""
    if not path.is_file():  # it would wait for someone to write into a pipe
        return {}
    try:
        with soundfile.SoundFile(str(path)) as file:
            found = file.copy_metadata()
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):  # ValueError, TypeError: a suffix such as .raw
        return {}
    strings = {name: " ".join(found.get(name, "").split()) for name in _FIELDS}
    return {name: value for name, value in strings.items() if 0 < len(value) <= LONGEST and value.isprintable()}


def answer(request: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """In the child."""
    isolated.limit_memory(MEMORY)
    yield b"S", json.dumps(read(Path(request["path"]))).encode()


if __name__ == "__main__":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the MP3 decoder says there what the reading of the audio will tell
    isolated.serve(answer)

"""The tags that stand inside of audio files (Vorbis comments, ID3, LIST INFO), read by libsndfile in a child process.

A damaged file has no tags here and no error: what is wrong with it is told once, when its audio is read.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

import soundfile

from partimento.audio.child import MEMORY, Decoder, _send
from partimento.audio.declared import Fault

STALL_SECONDS = 20.0
LONGEST = 4096  # characters of one string
_FIELDS = ("title", "artist", "album", "genre", "license", "copyright")


class Reader(Decoder):
    """The child that reads them. One crash or hang costs the strings of one file."""

    def __init__(self, *, stall_seconds: float = STALL_SECONDS) -> None:
        command = (sys.executable, "-m", "partimento.audio.embedded")
        super().__init__(stall_seconds=stall_seconds, command=command)

    def strings(self, path: Path) -> dict[str, str]:
        """Those of title, artist, album, genre, license, copyright that the file has."""
        with self._lock:
            process = self._ready()
            answered = False
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # a dead child gives no answer
                    process.stdin.write(json.dumps(os.fsdecode(Path(path).absolute())).encode() + b"\n")
                    process.stdin.flush()
                found = json.loads(self._message(process, b"S"))
                answered = True
                return dict(found)
            except Fault:
                return {}
            finally:
                if not answered:
                    self._stop()


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
    try:
        with soundfile.SoundFile(str(path)) as file:
            found = file.copy_metadata()
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):  # ValueError, TypeError: a suffix such as .raw
        return {}
    strings = {name: " ".join(found.get(name, "").split()) for name in _FIELDS}
    return {name: value for name, value in strings.items() if 0 < len(value) <= LONGEST and value.isprintable()}


def main() -> None:
    """Serve requests (paths as JSON, a line each) on standard input until it closes."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # the MP3 decoder complains there of what the reading of the audio will tell
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        _send(answers, b"S", json.dumps(read(Path(json.loads(line)))).encode())


if __name__ == "__main__":
    main()

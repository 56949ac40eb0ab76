"""The decoder in a process of its own (`isolated`): files come from anywhere.

An answer is a message of facts (F), messages of samples (B), and an end. The child imports no torch and takes 0.2 s to
start; encode workers have one or more each.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from partimento import isolated
from partimento.audio.declared import MOST_CHANNELS, stalled
from partimento.audio.decode import BLOCK, MOST_SECONDS, Block, Facts, stream
from partimento.audio.foreign import STALL_SECONDS

MEMORY = 2 << 30  # bytes of address space for the child, beside the file's own


class Decoder:
    """A child process that decodes one file after the other. Safe to share between threads, which take turns."""

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, command: Sequence[str] | None = None) -> None:
        command = command or (sys.executable, "-m", "partimento.audio.child")
        self.child = isolated.Child(command, stall_seconds=stall_seconds, longest=BLOCK * MOST_CHANNELS * 4)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stream(self, path: Path, max_seconds: float = MOST_SECONDS) -> Iterator[tuple[Facts, Iterator[Block]]]:
        """As decode.stream. Raises AUDIO009 as well, when the child dies or gives nothing for `stall_seconds`."""
        path = Path(path)
        request = {"path": os.fsdecode(path.absolute()), "max_seconds": max_seconds}
        with self._lock:
            try:
                with self.child.ask(request) as message:
                    facts = Facts(**json.loads(message(b"F")[1]))

                    def blocks() -> Iterator[Block]:
                        while (got := message(b"BE"))[0] == b"B":
                            yield np.frombuffer(got[1], np.float32).reshape(-1, facts.channels)

                    yield facts, blocks()
            except isolated.Lost as lost:
                raise stalled(lost.why).at(path) from None

    def close(self) -> None:
        with self._lock:
            self.child.close()


_shared: tuple[int, Decoder] | None = None


def shared() -> Decoder:
    """The calling process's own decoder; a process that was forked starts another."""
    global _shared
    if _shared is None or _shared[0] != os.getpid():
        _shared = (os.getpid(), Decoder())
        atexit.register(_shared[1].close)
    return _shared[1]


def answer(request: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """In the child."""
    path = Path(request["path"])
    # The container's parser maps the file, which takes no memory but addresses.
    isolated.limit_memory(MEMORY + (path.stat().st_size if path.is_file() else 0))
    facts, blocks = stream(path, request["max_seconds"])
    yield b"F", json.dumps(asdict(facts)).encode()
    for block in blocks:
        yield b"B", np.ascontiguousarray(block, np.float32).tobytes()


if __name__ == "__main__":
    isolated.serve(answer)

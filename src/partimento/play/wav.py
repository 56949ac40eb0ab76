"""WAV of 16 bits that is written before its length is known, with a comment.

The header of a stream cannot know the length: it says 0xFFFFFFFF, which players take for "until it ends". Where the
stream is a file, the true length is put in when it ends, however it ends.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from partimento import commit

UNKNOWN = 0xFFFFFFFF
_NAMES = {"title": b"INAM", "software": b"ISFT", "comment": b"ICMT"}
_MOST_HEAD = 1 << 20


def comment(path: Path) -> str | None:
    """The comment of a file that `Wav` wrote, None if there is none. (libsndfile reads comments up to 2 KiB only.)
    Raises OSError."""
    with path.open("rb") as stream:
        content = stream.read(_MOST_HEAD)
    info = content.find(b"LIST", 12)
    at = content.find(_NAMES["comment"], info)
    if content[:4] != b"RIFF" or info < 0 or at < 0:
        return None
    (length,) = struct.unpack_from("<I", content, at + 4)
    return content[at + 8 : at + 8 + length].rstrip(b"\0").decode(errors="replace")


class Wav:
    """A RIFF file of 16 bits whose length is not known when it begins; tags go into a LIST INFO chunk before it."""

    def __init__(self, out: BinaryIO, channels: int, sample_rate: int, tags: Mapping[str, str]) -> None:
        self.out, self.channels = out, channels
        self.samples = 0
        self._rewinds = _rewinds(out)
        info = b"INFO" + b"".join(_chunk(_NAMES[name], text.encode() + b"\0") for name, text in tags.items())
        form = struct.pack("<HHIIHH", 1, channels, sample_rate, sample_rate * channels * 2, channels * 2, 16)
        head = b"WAVE" + _chunk(b"fmt ", form) + _chunk(b"LIST", info)
        self._head = len(head) + 8  # of "data" and its length
        self._put(struct.pack("<4sI", b"RIFF", UNKNOWN) + head + struct.pack("<4sI", b"data", UNKNOWN))

    def write(self, samples: bytes) -> None:
        self._put(samples)
        self.samples += len(samples) // (2 * self.channels)

    def close(self) -> None:
        """The true lengths, where the stream is a file and they fit into 32 bits."""
        if not self._rewinds:
            return
        data = self.out.seek(0, os.SEEK_END) - self._head - 8
        if data + self._head < UNKNOWN:
            self.out.seek(4)
            self._put(struct.pack("<I", self._head + data))
            self.out.seek(4 + self._head)
            self._put(struct.pack("<I", data))
            self.out.seek(0, os.SEEK_END)

    def _put(self, content: bytes) -> None:
        """All of it; an unbuffered stream may take a part."""
        view = memoryview(content)
        with commit.disk_errors(Path("standard output")):
            while view:
                view = view[self.out.write(view) :]


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)


def _rewinds(out: BinaryIO) -> bool:
    """Whether what is written first can be changed later: a file from its beginning, not opened for appending (where
    every write lands at the end, wherever one seeks)."""
    if not out.seekable() or out.tell() != 0:
        return False
    try:
        return not fcntl.fcntl(out.fileno(), fcntl.F_GETFL) & os.O_APPEND
    except io.UnsupportedOperation:  # in memory
        return True

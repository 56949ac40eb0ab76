"""Files that only ffmpeg knows: a process of its own, bounded in time, memory and output."""

from __future__ import annotations

import contextlib
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from partimento import isolated
from partimento.audio.declared import Fault, damaged, limits, stalled

STALL_SECONDS = 60.0  # a decoder that gives nothing for so long is stopped
_MEMORY = 2 << 30


def open_foreign(path: Path, block: int, max_seconds: float) -> tuple[int, int, Iterator[NDArray[np.float32]]]:
    """(sample rate, channels, blocks [n, C]) of a file by ffmpeg, which stops a second after `max_seconds`.

    Raises the faults AUDIO005 (also whenever ffmpeg complains), AUDIO008, AUDIO009 and AUDIO010 (there is no ffmpeg).
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise Fault(
            "AUDIO010",
            "this kind of file needs the program ffmpeg, which is not installed",
            next="install ffmpeg (apt install ffmpeg, brew install ffmpeg), or convert the file to FLAC",
        )
    command = [program, "-v", "error", "-nostdin", "-xerror", "-err_detect", "crccheck+explode", "-threads", "1"]
    command += ["-protocol_whitelist", "file,pipe", "-i", f"file:{path.absolute()}", "-map", "0:a:0"]
    command += ["-t", f"{max_seconds + 1:.3f}", "-c:a", "pcm_f32le", "-f", "wav", "-bitexact", "pipe:1"]
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, bufsize=0)
        stack.callback(_end, process)
        _bound(process.pid)
        head = _wav_head(process)
        if head is None:
            _finish(process)
            raise damaged(f"ffmpeg says: {_last_line(said)}")
        rate, channels = head
        limits(rate, channels)
        return rate, channels, _blocks(process, block, channels, said, stack.pop_all())


def _blocks(
    process: subprocess.Popen[bytes], block: int, channels: int, said: IO[bytes], stack: contextlib.ExitStack
) -> Iterator[NDArray[np.float32]]:
    with stack:
        whole = block * channels * 4
        data = _take(_pipe(process), whole, STALL_SECONDS)
        while data:
            yield np.frombuffer(data[: len(data) // (4 * channels) * 4 * channels], "<f4").reshape(-1, channels)
            data = _take(_pipe(process), whole, STALL_SECONDS)
        status = _finish(process)
        complaint = _last_line(said)
        if status != 0 or complaint:
            raise damaged(f"ffmpeg says: {complaint or f'exit status {status}'}")


def _wav_head(process: subprocess.Popen[bytes]) -> tuple[int, int] | None:
    """Rate and channels from the header that ffmpeg writes to the pipe, which then stands at the samples."""
    pipe, rate, channels = _pipe(process), 0, 0
    head = _take(pipe, 12, STALL_SECONDS)
    while len(head) == 12:
        chunk = _take(pipe, 8, STALL_SECONDS)
        if len(chunk) < 8:
            break
        if chunk[:4] == b"data":
            return rate, channels
        body = _take(pipe, min(struct.unpack("<I", chunk[4:])[0], 1 << 16), STALL_SECONDS)
        if chunk[:4] == b"fmt " and len(body) >= 16:
            channels, rate = struct.unpack_from("<HI", body, 2)
    return None


def _bound(pid: int) -> None:
    """Limit a process that parses foreign bytes, where the system can: memory, and no file of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def _pipe(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return process.stdout.fileno()


def _finish(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise stalled("ffmpeg closed its output and did not end") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _last_line(said: IO[bytes]) -> str | None:
    said.seek(0)
    lines = said.read(1 << 16).decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def _take(pipe: int, count: int, stall_seconds: float) -> bytearray:
    try:
        return isolated.take(pipe, count, stall_seconds)
    except isolated.Lost as lost:
        raise stalled(lost.why) from None

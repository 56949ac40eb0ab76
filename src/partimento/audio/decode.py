"""From a file to blocks of samples, with every guard that the decoders lack.

WAV, AIFF, FLAC, Ogg Vorbis, Opus and MP3 go through libsndfile, other containers through ffmpeg (foreign.py). Checked
on the way: the container (containers.py), its facts against the decoder's, limits before any allocation, frames
declared against frames read, a FLAC's MD5, what the MP3 decoder says on stderr, finite samples, and |x| <= 4.

What no reader can notice: flipped bits among the samples of a WAV or AIFF, which hold no checksum (a flip in a header
that contradicts another field is caught; an AIFF's rate contradicts nothing), and small damage inside the frames of an
MP3 that has no encoder's record with a checksum (LAME and ffmpeg write one).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from partimento.audio.containers import inspect
from partimento.audio.declared import Declared, Fault, cut, damaged, limits, too_long
from partimento.audio.foreign import open_foreign

Block = NDArray[np.float32]  # [n, C], as decoders give them

BLOCK = 1 << 17  # frames
MOST_SECONDS = 24 * 3600.0  # of a stream, which takes constant memory
LOUDEST = 4.0  # 12 dB over full scale: more is damage, or not audio
DECODER = f"soundfile {soundfile.__version__} libsndfile {soundfile.__libsndfile_version__}"
_MPG123 = re.compile(r"libmpg123|^Note: |^Warning: ")


@dataclass(frozen=True)
class Facts:
    sample_rate: int
    channels: int
    frames: int | None  # declared; None where only the end will tell
    container: str
    decoder: str
    subtype: str = ""  # how the file holds its samples, by libsndfile's name (PCM_24, FLOAT); "" where ffmpeg reads it
    tags: dict[str, str] = field(default_factory=dict)  # of a FLAC, as stream.write takes them


def stream(path: Path, max_seconds: float = MOST_SECONDS) -> tuple[Facts, Iterator[Block]]:
    """Open a file: what it is, and its samples in blocks float32 [n, C] of constant memory.

    The last checks come with the last block: until the iterator has ended, nothing read is known to be good.
    Raises SYS004 and AUDIO002 to AUDIO010.
    """
    path = Path(path)
    try:
        declared = inspect(path)
        if declared.container == "foreign":
            rate, channels, blocks = open_foreign(path, BLOCK, max_seconds)
            kind = path.suffix.lstrip(".").lower() or "foreign"
            facts = Facts(rate, channels, None, kind, "ffmpeg")
        else:
            facts, blocks = _native(path, declared, max_seconds)
    except Fault as fault:
        raise fault.at(path) from None
    return facts, _guarded(path, facts, blocks, max_seconds)


def _guarded(path: Path, facts: Facts, blocks: Iterator[Block], max_seconds: float) -> Iterator[Block]:
    """The checks that hold for every format."""
    total = 0
    try:
        for block in blocks:
            total += len(block)
            if total > max_seconds * facts.sample_rate:
                raise too_long(max_seconds)
            peak = float(np.max(np.abs(block), initial=0.0))  # NaN wins every comparison of np.max
            if not peak <= LOUDEST:
                first = total - len(block)
                raise Fault(
                    "AUDIO006",
                    "the samples are not those of a recording",
                    f"a sample of {peak:.1f}" if np.isfinite(peak) else f"NaN or infinity after frame {first}",
                    next="write the file again with samples in -1 to 1, or leave it out",
                )
            yield block
        if total == 0:
            raise Fault("AUDIO007", "the file holds no samples")
    except Fault as fault:
        raise fault.at(path) from None


# ---- libsndfile ------------------------------------------------------------------------------------------------


def _native(path: Path, declared: Declared, max_seconds: float) -> tuple[Facts, Iterator[Block]]:
    stderr = _Stderr(declared.container == "mp3")
    try:
        with stderr.heard():
            file = soundfile.SoundFile(str(path))
    except (soundfile.SoundFileError, ValueError) as err:
        if declared.frames == 0:
            raise Fault("AUDIO007", "the file holds no samples") from None
        raise damaged(_reason(err)) from None
    try:
        limits(file.samplerate, file.channels)
        _agree(declared, file)
        if file.frames / file.samplerate > max_seconds:
            raise too_long(max_seconds)
    except BaseException:
        file.close()
        raise
    # The frames of an MP3 without a count are the decoder's estimate.
    frames = None if declared.least is not None else file.frames
    tags = dict(file.copy_metadata()) if declared.container == "flac" else {}
    facts = Facts(file.samplerate, file.channels, frames, declared.container, DECODER, file.subtype, tags)
    return facts, _native_blocks(declared, file, frames, stderr)


def _agree(declared: Declared, file: soundfile.SoundFile) -> None:
    pairs = [
        ("sample rate", declared.sample_rate, file.samplerate),
        ("channel count", declared.channels, file.channels),
        ("length", declared.frames, file.frames),
    ]
    for name, said, found in pairs:
        if said is not None and said != found:
            raise Fault(
                "AUDIO004" if name == "length" else "AUDIO005", f"the {name} is {found} and the header says {said}"
            )


def _native_blocks(
    declared: Declared, file: soundfile.SoundFile, frames: int | None, stderr: _Stderr
) -> Iterator[Block]:
    total, digest = 0, hashlib.md5(usedforsecurity=False)
    with file:
        while True:
            try:
                with stderr.heard():
                    block = file.read(BLOCK, dtype="int32" if declared.bits else "float32", always_2d=True)
            except (soundfile.SoundFileError, ValueError) as err:
                raise damaged(_reason(err)) from err
            if not len(block):
                break
            total += len(block)
            if declared.bits:
                if declared.md5:
                    digest.update(_packed(block, declared.bits))
                block = block.astype(np.float32) * np.float32(2**-31)
            yield block
    complaint = stderr.complaint()
    if complaint:
        raise damaged(f"the decoder says: {complaint}")
    if (frames is not None and total != frames) or total < (declared.least or 0):
        expected = frames if frames is not None else f"at least {declared.least}"
        raise cut(f"{expected} frames are declared and {total} can be read")
    if declared.md5 and digest.digest() != declared.md5:
        raise damaged("the samples do not match the MD5 in the file")


def _packed(block_NC: NDArray[np.int32], bits: int) -> bytes:
    """Samples as FLAC's MD5 wants them: signed, little-endian, in whole bytes. libsndfile fills from the top."""
    width = -(-bits // 8)
    samples = np.ascontiguousarray(block_NC >> (32 - bits)).astype("<i4")
    return samples.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


def _reason(err: Exception) -> str:
    return str(getattr(err, "error_string", err))


class _Stderr:
    """What a C library prints on file descriptor 2 while it works: the only voice that the MP3 decoder has.

    The descriptor belongs to the whole process, so one thread listens at a time, only inside the library, and lines
    of others are passed on.
    """

    _one = threading.Lock()

    def __init__(self, listen: bool) -> None:
        self._listen = listen
        self._said = b""

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        if not self._listen:
            yield
            return
        with self._one, tempfile.TemporaryFile() as file:
            if sys.stderr is not None:
                sys.stderr.flush()
            kept = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                os.close(kept)
                file.seek(0)
                self._said += file.read(1 << 16)

    def complaint(self) -> str | None:
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()]
        other = [line for line in lines if not _MPG123.search(line)]
        if other and sys.stderr is not None:
            sys.stderr.write("".join(f"{line}\n" for line in other))
        mine = [line for line in lines if _MPG123.search(line)]
        return mine[0] if mine else None

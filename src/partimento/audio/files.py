"""Reading, writing and finding audio files. Nothing damaged, cut or absurd comes through as audio: see decode.py."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from partimento.audio import child, decode, stream
from partimento.audio.declared import too_long
from partimento.audio.decode import DECODER, Facts
from partimento.errors import PartimentoError

__all__ = [
    "AUDIO_SUFFIXES",
    "DECODER",
    "RESAMPLER",
    "Audio",
    "discover",
    "read",
    "read_isolated",
    "resample",
    "samples_sha256",
    "tags",
    "to_mono",
    "write",
]

WaveCN = NDArray[np.float32]

NATIVE_SUFFIXES = frozenset({".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})
FOREIGN_SUFFIXES = frozenset({".m4a", ".aac", ".mp4", ".wma", ".webm", ".mka", ".wv", ".ape", ".caf"})
AUDIO_SUFFIXES = NATIVE_SUFFIXES | FOREIGN_SUFFIXES  # what `discover` looks for; what a file is, its content decides
MOST_SECONDS = 3600.0  # of a recording that is held whole
MOST_SAMPLES = 1 << 30  # 4 GiB of float32
RESAMPLER = f"soxr {soxr.__version__} VHQ"


@dataclass(frozen=True)
class Audio:
    """A recording: `wave_CN` float32 [channels, samples], unscaled, and how it was read."""

    wave_CN: WaveCN
    sample_rate: int
    container: str
    decoder: str

    @property
    def seconds(self) -> float:
        return self.wave_CN.shape[1] / self.sample_rate


def read(path: Path, *, max_seconds: float = MOST_SECONDS) -> Audio:
    """Decode a whole file in the calling process.

    For files whose origin is known. Raises SYS004 (no such file), AUDIO002 to AUDIO008 (what is wrong with it) and
    AUDIO010 (ffmpeg is needed). The samples keep their scale: float files may exceed 1, up to 4.
    """
    return _whole(Path(path), *decode.stream(Path(path), max_seconds), max_seconds)


def read_isolated(path: Path, *, max_seconds: float = MOST_SECONDS) -> Audio:
    """As `read`, but in a child process with bounded memory, which serves all later calls too.

    Raises AUDIO009 as well: the decoder crashed, or gave nothing for a minute.
    """
    with child.shared().stream(Path(path), max_seconds) as (facts, parts):
        return _whole(Path(path), facts, parts, max_seconds)


def _whole(path: Path, facts: Facts, parts: Iterator[decode.Block], max_seconds: float) -> Audio:
    try:
        if facts.frames is None:
            held: list[decode.Block] = []
            size = 0
            for part in parts:
                held.append(part)
                size += part.size
                if size > MOST_SAMPLES:
                    raise too_long(max_seconds).at(path)
            wave_CN = np.ascontiguousarray(np.concatenate(held).T)
        elif facts.frames * facts.channels > MOST_SAMPLES:
            raise too_long(max_seconds).at(path)
        else:
            # Pages that no sample reaches cost no memory, so a false length does no harm before it is found out.
            wave_CN = np.empty((facts.channels, facts.frames), np.float32)
            done = 0
            for part in parts:
                wave_CN[:, done : done + len(part)] = part.T
                done += len(part)
    except MemoryError:
        raise too_long(max_seconds).at(path) from None
    return Audio(wave_CN, facts.sample_rate, facts.container, facts.decoder)


def resample(wave_CN: WaveCN, from_rate: int, to_rate: int) -> WaveCN:
    """Change the sample rate by soxr (VHQ, linear phase): N samples become exactly round(N * to / from), halves up."""
    if from_rate == to_rate:
        return np.asarray(wave_CN, np.float32)
    parts = list(stream.resample([np.asarray(wave_CN, np.float32)], from_rate, to_rate))
    return np.concatenate(parts, axis=1) if parts else np.zeros((wave_CN.shape[0], 0), np.float32)


def to_mono(wave_CN: WaveCN) -> WaveCN:
    """The mean of all channels, [1, N]. Nothing else in the project mixes channels down."""
    return np.asarray(wave_CN, np.float32).mean(0, keepdims=True, dtype=np.float64).astype(np.float32)


def write(path: Path, wave_CN: WaveCN, sample_rate: int, subtype: str | None = None) -> int:
    """Write float samples [C, N] and return how many of them exceed full scale and were clipped to it.

    Formats and errors as stream.write. What `read` gives from 16 bits is written back bit for bit.
    """
    wave_CN = np.asarray(wave_CN)
    if wave_CN.ndim != 2 or 0 in wave_CN.shape or wave_CN.shape[0] > wave_CN.shape[1]:
        raise stream.unwritable(
            path, f"samples of shape {wave_CN.shape} are not [channels, samples]", "give [channels, samples]"
        )
    return stream.write(path, [wave_CN], sample_rate, subtype)


def tags(path: Path) -> dict[str, str]:
    """The metadata of a file that `stream.write` can write, by the names that it has there. Raises SYS004, AUDIO002."""
    if not Path(path).exists():
        raise PartimentoError("SYS004", f"{path} does not exist", next="check the path")
    try:
        with soundfile.SoundFile(path) as file:
            return dict(file.copy_metadata())
    except soundfile.SoundFileError as err:
        raise PartimentoError("AUDIO002", "this has no metadata to read", where=str(path), why=str(err)) from err


def samples_sha256(path: Path, *, most: int | None = None, max_seconds: float = MOST_SECONDS) -> tuple[str, int]:
    """(sha256, N) of the first `most` samples (None: all) of a file of 16 bits, little-endian, channels interleaved:
    equal if and only if the audio is, whatever the container and its metadata. Raises what `read` raises."""
    digest, count = hashlib.sha256(), 0
    for block_NC in decode.stream(Path(path), max_seconds)[1]:
        block_NC = block_NC[: None if most is None else max(0, most - count)]
        count += len(block_NC)
        digest.update(np.rint(block_NC * np.float32(2**15)).astype("<i2").tobytes())
    return digest.hexdigest(), count


def _unlisted(err: OSError) -> None:
    raise PartimentoError(
        "SYS004",
        "a folder cannot be listed, and what is in it would be missing without a word",
        where=str(err.filename),
        why=err.strerror,
        next="check its permissions (ls -ld), or give the folders beside it one by one",
    ) from err


def discover(paths: Path | Iterable[Path]) -> list[Path]:
    """All audio files below the folders given, and the files given, sorted and each once. Hidden names are passed over.

    Raises SYS004 for a path that does not exist or cannot be listed, and AUDIO001 when there is no audio at all.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: set[Path] = set()
    for path in map(Path, given):
        if path.is_file():
            found.add(path)
        elif path.is_dir():
            for folder, inside, names in os.walk(path, onerror=_unlisted):
                inside[:] = [name for name in inside if not name.startswith(".")]
                audible = (n for n in names if not n.startswith(".") and Path(n).suffix.lower() in AUDIO_SUFFIXES)
                found.update(Path(folder) / name for name in audible)
        else:
            raise PartimentoError("SYS004", f"{path} does not exist", next="check the path")
    if not found:
        raise PartimentoError(
            "AUDIO001",
            "no audio was found",
            where=", ".join(map(str, given)) or "no path was given",
            why=f"no file there ends in {', '.join(sorted(NATIVE_SUFFIXES))} or a suffix that ffmpeg reads",
            next="give a folder that holds recordings; `partimento demo` makes its own",
        )
    return sorted(found, key=lambda path: path.as_posix())

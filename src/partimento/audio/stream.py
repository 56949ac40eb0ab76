"""Audio that is never whole in memory: resampled and written block by block.

The samples do not depend on how they are cut into blocks. `files.resample` and `files.write` are these with one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError

WaveCN = NDArray[np.float32]

PIECE = 1 << 17  # samples that are quantised and handed to the encoder at once
_WRITTEN = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III"}
_FORMAT = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3"}


def resample(blocks: Iterable[WaveCN], from_rate: int, to_rate: int) -> Iterator[WaveCN]:
    """Change the sample rate of blocks [C, n] by soxr (VHQ, linear phase).

    N samples in all become exactly round(N * to / from), halves up.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    soxr_stream: soxr.ResampleStream | None = None
    taken = given = channels = 0
    for block_CN in blocks:
        if soxr_stream is None:
            channels = block_CN.shape[0]
            soxr_stream = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="VHQ")
        taken += block_CN.shape[1]
        out_CN = soxr_stream.resample_chunk(np.ascontiguousarray(block_CN.T, np.float32)).T
        given += out_CN.shape[1]
        if out_CN.shape[1]:
            yield np.ascontiguousarray(out_CN)
    if soxr_stream is None:
        return
    out_CN = soxr_stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T
    left = (2 * taken * to_rate + from_rate) // (2 * from_rate) - given  # soxr rounds the length its own way
    out_CN = np.pad(out_CN[:, :left], ((0, 0), (0, max(0, left - out_CN.shape[1]))))
    if out_CN.shape[1]:
        yield np.ascontiguousarray(out_CN)


def write(
    path: Path,
    blocks: Iterable[NDArray[np.floating]],
    sample_rate: int,
    subtype: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Write float samples, in blocks [C, n], and return how many of them exceed full scale and were clipped to it.

    The suffix gives the format: .wav, .flac (16 bits unless `subtype` says PCM_24 or, for WAV, FLOAT, which clips
    nothing), .ogg, .opus, .mp3. Nothing is scaled. The file is at `path` whole or not at all. `tags` are the metadata
    of a FLAC file: title, artist, album, comment, copyright, date, genre, license, software, tracknumber.
    Raises AUDIO011 (NaN, infinity, no samples, a format or rate that cannot be) and SYS002 (the disk).
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    subtype = subtype or _WRITTEN.get(suffix)
    if subtype is None:
        raise unwritable(path, f"no format has the suffix {suffix or 'none'}", "use .wav, .flac, .ogg, .opus or .mp3")
    if tags and suffix != ".flac":
        raise unwritable(path, "the metadata of other formats is cut by libsndfile without a word", "use .flac")
    pieces = _pieces(path, blocks)
    first_CN = next(pieces, None)
    if first_CN is None:
        raise unwritable(path, "there are no samples", "give at least one")
    clipped = 0

    def encode(tmp: Path) -> None:
        nonlocal clipped
        with tmp.open("w+b") as raw:
            disk = _Disk(raw)
            try:
                file = _open(disk, path, sample_rate, first_CN.shape[0], subtype)
                with file:
                    for name, text in (tags or {}).items():
                        setattr(file, name, text)
                    clipped = _put(file, first_CN, subtype)
                    for piece_CN in pieces:
                        clipped += _put(file, piece_CN, subtype)
            except AssertionError:  # soundfile's own, where fewer samples were written than it gave
                disk.check()
                raise
            except soundfile.SoundFileError as err:
                disk.check()
                raise unwritable(path, str(err), "choose another format or sample rate") from err
            disk.check()

    commit.file(path, encode)
    return clipped


def _open(disk: _Disk, path: Path, sample_rate: int, channels: int, subtype: str) -> soundfile.SoundFile:
    try:
        kind = _FORMAT.get(path.suffix.lower(), "")
        return soundfile.SoundFile(disk, "w", sample_rate, channels, subtype=subtype, format=kind)
    except (ValueError, TypeError) as err:
        raise unwritable(path, str(err), "choose another format or sample rate") from err


def _pieces(path: Path, blocks: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.floating]]:
    """The blocks, checked and cut small (libsndfile's Vorbis encoder has its buffers on the stack)."""
    channels = None
    for block_CN in blocks:
        if block_CN.ndim != 2 or block_CN.shape[0] == 0 or channels not in (None, block_CN.shape[0]):
            raise unwritable(path, f"samples of shape {block_CN.shape} are not [channels, samples]", "give all alike")
        channels = block_CN.shape[0]
        for start in range(0, block_CN.shape[1], PIECE):
            piece_CN = block_CN[:, start : start + PIECE]
            if not np.isfinite(piece_CN).all():
                raise unwritable(
                    path, "the samples hold NaN or infinity", "find what made them; a model that diverged does this"
                )
            yield piece_CN


def _put(file: soundfile.SoundFile, wave_CN: NDArray[np.floating], subtype: str) -> int:
    if subtype in ("FLOAT", "DOUBLE"):
        file.write(np.ascontiguousarray(wave_CN.T))
        return 0
    file.write(np.ascontiguousarray(_quantised(wave_CN, subtype).T))
    return int(np.count_nonzero(np.abs(wave_CN) > 1))


def pcm16(path: Path, blocks: Iterable[NDArray[np.floating]]) -> Iterator[tuple[bytes, int]]:
    """(samples, how many were clipped) of blocks [C, n]: what `write` puts into a file of 16 bits, without the file.

    `path` is where they go, for the errors. Raises AUDIO011 as `write`.
    """
    for piece_CN in _pieces(path, blocks):
        samples_NC = np.ascontiguousarray(_quantised(piece_CN, "PCM_16").T)
        yield samples_NC.astype("<i2").tobytes(), int(np.count_nonzero(np.abs(piece_CN) > 1))


def _quantised(wave_CN: NDArray[np.floating], subtype: str) -> NDArray[np.generic]:
    """Rounded here, since libsndfile truncates to 16 bits; 1.0 becomes the largest sample."""
    bits = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}.get(subtype)
    if bits is None:
        return np.clip(wave_CN, -1, 1).astype(np.float32)
    scale = 2.0 ** (bits - 1)
    whole = np.clip(np.rint(wave_CN.astype(np.float64) * scale), -scale, scale - 1)
    return whole.astype(np.int16) if bits == 16 else whole.astype(np.int32) << (32 - bits)


class _Disk:
    """A file for libsndfile that keeps the system's own error: the library only knows that something failed."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._error: OSError | None = None

    def check(self) -> None:
        if self._error:
            raise self._error

    def write(self, content: Any) -> int:
        try:
            return self._raw.write(content)
        except OSError as err:
            self._error = self._error or err
            return 0

    def read(self, count: int = -1) -> bytes:
        return self._raw.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._raw.seek(offset, whence)  # it writes what is buffered
        except OSError as err:
            self._error = self._error or err
            return -1

    def tell(self) -> int:
        return self._raw.tell()

    def flush(self) -> None:
        try:
            self._raw.flush()
        except OSError as err:
            self._error = self._error or err


def unwritable(path: Path, why: str, remedy: str) -> PartimentoError:
    return PartimentoError("AUDIO011", "this cannot be written as audio", where=str(path), why=why, next=remedy)

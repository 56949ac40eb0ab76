"""What a file says about itself, read before any decoder is trusted with it.

Decoders are made to play on: they read half a WAV without a word, guess past damage in an MP3 and skip damaged pages of
an OGG. So the containers are walked here first, chunk by chunk and page by page, and every contradiction is an error.
Formats: RIFF/RF64 (EBU Tech 3306), AIFF, FLAC (RFC 9639), Ogg (RFC 3533); MPEG audio in mpeg.py.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from partimento.audio import crc, mpeg
from partimento.audio.declared import (
    LEAST_RATE,
    MOST_CHANNELS,
    Bytes,
    Declared,
    Fault,
    after_id3,
    cut,
    damaged,
    limits,
    unknown,
)

_STREAMED = 0x7FFFF000  # writers to a pipe cannot know the size and put 2^31 - a bit, or 2^32 - 1


def inspect(path: Path) -> Declared:
    """Walk the container of `path`.

    Raises the faults SYS004 (no such file), AUDIO002 (not audio), AUDIO003 (empty), AUDIO004 (cut short), AUDIO005
    (damaged) and AUDIO008 (outside the limits).
    """
    if not path.is_file():
        raise Fault("SYS004", "it is not a file" if path.exists() else "there is no such file", next="check the path")
    try:
        if path.stat().st_size == 0:
            raise Fault("AUDIO003", "the file has 0 bytes")
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _walk(data)
    except OSError as err:
        raise Fault("SYS004", "the file cannot be read", err.strerror, next="check its permissions") from err
    except (IndexError, struct.error):
        raise cut("it ends inside a header") from None


def _walk(data: Bytes) -> Declared:
    head = bytes(data[:16])
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav(data)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(data)
    if head[:4] == b"OggS":
        return _ogg(data)
    start = after_id3(data)
    if bytes(data[start : start + 4]) == b"fLaC":
        return _flac(data, start)
    foreign = head[4:8] == b"ftyp" or head[:4] in (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75", b"MAC ", b"wvpk", b"caff")
    if foreign or (head[0] == 0xFF and len(head) > 1 and head[1] & 0xF6 == 0xF0):  # the last is AAC in ADTS frames
        return Declared("foreign")
    if mpeg.frame_at(bytes(data[start : start + 4])) is not None:
        return mpeg.walk(data, start)
    raise unknown(f"it begins with {head[:8]!r}")


# ---- RIFF, RF64, AIFF ------------------------------------------------------------------------------------------


def _chunks(
    data: Bytes, end: int, order: str, *, streamed: bool = False, big_data: int | None = None
) -> dict[bytes, tuple[int, int]]:
    """Chunk name -> (place, size). Chunks must be named and must fill the outer one, which ends at `end`, exactly.

    `streamed`: the outer size was unknown to the writer, so that of the sound may be, too, and it goes on to the end.
    """
    found: dict[bytes, tuple[int, int]] = {}
    at = 12
    while at + 8 <= end:
        name, size = bytes(data[at : at + 4]), struct.unpack_from(order + "I", data, at + 4)[0]
        if not all(32 <= letter < 127 for letter in name):
            raise damaged(f"no chunk begins at byte {at}")
        if name == b"data" and big_data is not None:
            size = big_data
        if at + 8 + size > end:
            if name != b"data" or not streamed or not _is_streamed(size):
                raise cut(f"chunk {name!r} declares {size} bytes and {end - at - 8} are there")
            size = end - at - 8
        found.setdefault(name, (at + 8, size))
        at += 8 + size + size % 2
    if at < end and any(data[at:end]):
        raise damaged(f"{end - at} bytes after the last chunk")
    return found


def _is_streamed(size: int) -> bool:
    return size >= _STREAMED


def _riff_end(data: Bytes, declared: int) -> int:
    """Where the outer chunk ends; what follows may be padding or tags, nothing else."""
    end = 8 + declared
    if end > len(data) + 1 or declared < 4:  # a missing last pad byte is common and harmless
        raise cut(f"the header declares {end} bytes and the file has {len(data)}")
    tail = bytes(data[end : end + 8])
    if any(tail) and not tail.startswith((b"ID3", b"TAG", b"APETAGEX", b"LIST", b"id3 ")):
        raise cut(f"the header declares {end} bytes and the file has {len(data)}")
    return min(end, len(data))


def _wav(data: Bytes) -> Declared:
    if len(data) < 20:
        raise cut("no room for a header")
    big_data, size = None, struct.unpack_from("<I", data, 4)[0]
    if data[:4] != b"RIFF" and bytes(data[12:16]) == b"ds64" and len(data) >= 36:
        size, big_data = struct.unpack_from("<QQ", data, 20)
    streamed = _is_streamed(size) and size + 8 > len(data)
    end = len(data) if streamed else _riff_end(data, size)
    chunks = _chunks(data, end, "<", streamed=streamed, big_data=big_data)
    if b"fmt " not in chunks or b"data" not in chunks:
        raise damaged("a WAV needs the chunks fmt and data")
    at, length = chunks[b"fmt "]
    if length < 16:
        raise damaged("the chunk fmt is too short")
    kind, channels, rate, per_second, block, bits = struct.unpack_from("<HHIIHH", data, at)
    if kind == 0xFFFE and length >= 26:
        kind = struct.unpack_from("<H", data, at + 24)[0]
    limits(rate, channels)
    bytes_here = chunks[b"data"][1]
    if kind not in (1, 3, 6, 7):  # compressed kinds declare no frames here
        if bits > 4:
            raise damaged(f"its header contradicts itself: kind {kind} with {bits} bits a sample")
        return Declared("wav", rate, channels)
    if block != channels * -(-bits // 8) or per_second != rate * block:
        raise damaged(f"its header contradicts itself: {channels} channels of {bits} bits, {block} bytes a frame")
    wide = {1: (8, 16, 24, 32), 3: (32, 64), 6: (8,), 7: (8,)}[kind]
    if bits not in wide or (kind == 1 and b"PEAK" in chunks) or bytes_here % block:
        raise damaged(f"its header contradicts itself: kind {kind}, {bits} bits, {bytes_here} bytes of {block}")
    return Declared("wav", rate, channels, bytes_here // block)


def _aiff(data: Bytes) -> Declared:
    end = _riff_end(data, struct.unpack_from(">I", data, 4)[0])
    chunks = _chunks(data, end, ">")
    if b"COMM" not in chunks or chunks[b"COMM"][1] < 18:
        raise damaged("an AIFF needs the chunk COMM")
    channels, frames, bits = struct.unpack_from(">hIh", data, chunks[b"COMM"][0])
    sound = chunks.get(b"SSND", (0, 8))[1] - 8
    if data[8:12] == b"AIFF" and sound != frames * channels * -(-bits // 8):
        raise cut(f"{frames} frames are declared and there are {sound} bytes of sound")
    if not 1 <= channels <= MOST_CHANNELS:
        limits(LEAST_RATE, channels)
    return Declared("aiff", None, channels, frames)


# ---- FLAC ------------------------------------------------------------------------------------------------------


def _flac(data: Bytes, start: int) -> Declared:
    at, last, info = start + 4, False, b""
    while not last:
        if at + 4 > len(data):
            raise cut("the metadata runs past the end")
        last, kind = bool(data[at] & 0x80), data[at] & 0x7F
        length = int.from_bytes(data[at + 1 : at + 4], "big")
        if not info and (kind != 0 or length != 34):
            raise damaged("the first block is not STREAMINFO")
        info = info or bytes(data[at + 4 : at + 38])
        at += 4 + length
    packed = int.from_bytes(info[10:18], "big")
    rate, channels, bits, frames = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
    limits(rate, channels)
    if at + 4 >= len(data):
        if frames:
            raise cut("there is no audio frame")
        return Declared("flac", rate, channels, 0)
    if data[at] != 0xFF or data[at + 1] & 0xFE != 0xF8:
        raise damaged(f"no audio frame begins at byte {at}")
    # STREAMINFO has no checksum of its own; the frames' headers have, so the two are held against each other.
    rates = (None, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
    code = data[at + 2] & 15
    if 0 < code < 12 and rates[code] != rate:
        raise damaged(f"the header says {rate} Hz and the first frame {rates[code]} Hz")
    return Declared("flac", rate, channels, frames or None, None, bits, info[18:34] if any(info[18:34]) else None)


# ---- Ogg -------------------------------------------------------------------------------------------------------


def _ogg(data: Bytes) -> Declared:
    """Every page must follow the one before, have a right checksum, and the streams that begin must end."""
    at = 0
    following: dict[int, int] = {}  # stream -> number of its next page
    codec = bytes(data[27 + data[26] : 35 + data[26]]) if len(data) > 27 else b""
    open_streams: set[int] = set()
    while at < len(data):
        if bytes(data[at : at + 4]) != b"OggS":
            raise damaged(f"no page begins at byte {at}")
        if at + 27 > len(data) or at + 27 + data[at + 26] > len(data):
            raise cut("the last page has no whole header")
        flags, serial, number, checksum, segments = struct.unpack_from("<xBxxxxxxxxIIIB", data, at + 4)
        end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        if end > len(data):
            raise cut(f"the last page lacks {end - len(data)} bytes")
        page = bytearray(data[at:end])
        page[22:26] = bytes(4)
        if crc.ogg(bytes(page)) != checksum:
            raise damaged(f"the checksum of the page at byte {at} does not match")
        if number != following.get(serial, 0 if flags & 2 else None):
            raise damaged(f"a page is missing before byte {at}")
        following[serial] = number + 1
        if flags & 2:
            open_streams.add(serial)
        if flags & 4:
            open_streams.discard(serial)
            following.pop(serial)
        at = end
    if open_streams:
        raise cut("the stream has no end")
    # libsndfile reads no FLAC in Ogg as ffmpeg writes it.
    return Declared("ogg" if codec[:7] == b"\x01vorbis" or codec == b"OpusHead" else "foreign")

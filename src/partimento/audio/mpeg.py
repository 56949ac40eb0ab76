"""MPEG audio frames (ISO 11172-3, 13818-3), walked from one header to the next."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from partimento.audio import crc
from partimento.audio.declared import Bytes, Declared, cut, damaged, unknown

# kbit/s by index; version 1 layers I, II, III, then version 2 layer I and layers II and III.
_BITRATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class Frame:
    length: int  # bytes
    rate: int
    channels: int
    version: int  # 1, 2 or 25
    samples: int


def frame_at(head: bytes) -> Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version = {0: 25, 2: 2, 3: 1}.get(head[1] >> 3 & 3)
    layer, index, rate_index = 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version is None or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    kbits = _BITRATES[1 if version == 1 else 2, layer][index - 1]
    rate = (44100, 48000, 32000)[rate_index] // {1: 1, 2: 2, 25: 4}[version]
    padding = head[2] >> 1 & 1
    if layer == 1:
        length = (12000 * kbits // rate + padding) * 4
    else:
        length = (144000 if layer == 2 or version == 1 else 72000) * kbits // rate + padding
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 1 else 576
    return Frame(length, rate, 1 if head[3] >> 6 == 3 else 2, version, samples)


def walk(data: Bytes, start: int) -> Declared:
    """Frames must follow each other without a gap up to the tags at the end.

    The first frame may be the encoder's record (Xing, LAME), which counts the others and holds their checksum.
    """
    at, frames, first = start, 0, None
    record: _Record | None = None
    while at < len(data):
        head = bytes(data[at : at + 8])
        frame = frame_at(head)
        if frame is None:
            if head.startswith((b"TAG", b"APETAGEX", b"LYRICSBE", b"ID3")) or not any(data[at : at + 4096]):
                break
            raise damaged(f"no frame begins at byte {at}, after {frames} frames")
        if first is None:
            first = frame
            record = _record(bytes(data[at : at + frame.length]), frame)
        elif (frame.rate, frame.channels, frame.version) != (first.rate, first.channels, first.version):
            raise damaged(f"the frame at byte {at} has another rate or channel count than the first")
        at, frames = at + frame.length, frames + 1
        if at > len(data):
            raise cut(f"the last frame lacks {at - len(data)} bytes")
    if first is None:
        raise unknown("no MPEG frame")
    if record is None:
        # The decoder's own count is an estimate then, and it may drop frames that lean on ones before a cut.
        return Declared("mp3", first.rate, first.channels, least=max(0, frames - 3) * first.samples)
    if record.frames != frames - 1:
        raise cut(f"{record.frames} frames are declared and {frames - 1} are there")
    # mp3gain changes the frames in place, says so in a tag, and leaves the checksum as it was.
    verified = record.checksum is not None and b"MP3GAIN" not in bytes(data[at : at + (1 << 16)])
    if verified and crc.arc(bytes(data[start + first.length : at])) != record.checksum:
        raise damaged("the frames do not match the encoder's checksum")
    return Declared("mp3", first.rate, first.channels)


@dataclass(frozen=True)
class _Record:
    frames: int
    checksum: int | None


def _record(frame: bytes, facts: Frame) -> _Record | None:
    """The Xing header of a first frame, with LAME's extension (which ffmpeg writes, too) where it is whole."""
    side = (17 if facts.channels == 1 else 32) if facts.version == 1 else (9 if facts.channels == 1 else 17)
    tag = frame[4 + side :]
    if tag[:4] not in (b"Xing", b"Info") or len(tag) < 12 or not tag[7] & 1:
        return None
    counted = int.from_bytes(tag[8:12], "big")
    if tag[7] != 15 or len(tag) < 156 or not tag[120:].startswith((b"LAME3.9", b"LAME3.1", b"Lav")):
        return _Record(counted, None)
    bytes_counted, checksum, own = struct.unpack(">IHH", tag[148:156])
    # LAME covers what comes before the checksum; ffmpeg always 190 bytes, even past the end of a short frame, with
    # zeros where the checksum will stand.
    place = 4 + side + 154
    by_ffmpeg = tag[120:].startswith(b"Lav")
    covered = (frame[:place] + b"\0\0" + frame[place + 2 :])[:190] if by_ffmpeg else frame[:place]
    if not (by_ffmpeg and len(covered) < 190) and own not in (0, crc.arc(covered)):
        raise damaged("the encoder's record in the first frame does not match its checksum")
    return _Record(counted, checksum if bytes_counted else None)

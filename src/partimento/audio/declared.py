"""What an audio container declares, and the faults that are found in one."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from partimento.errors import PartimentoError

LEAST_RATE, MOST_RATE, MOST_CHANNELS = 4000, 384000, 16
Bytes = mmap.mmap | bytes


@dataclass(frozen=True)
class Declared:
    """None where the container does not say."""

    container: str  # wav, aiff, flac, ogg, mp3; or foreign: only ffmpeg knows it
    sample_rate: int | None = None
    channels: int | None = None
    frames: int | None = None
    least: int | None = None  # of an MP3 that does not count its frames: what a decoder must give at least
    bits: int | None = None  # of a FLAC's samples
    md5: bytes | None = None  # of a FLAC's samples


class Fault(Exception):
    """A coded error that does not know the file's name yet."""

    def __init__(self, code: str, message: str, why: str | None = None, next: str | None = None) -> None:
        super().__init__(code, message, why)
        self.code, self.message, self.why = code, message, why
        self.next = next or "fetch the file again from where it came from, or leave it out"

    def at(self, path: Path) -> PartimentoError:
        return PartimentoError(self.code, self.message, where=str(path), why=self.why, next=self.next)


def cut(why: str) -> Fault:
    return Fault("AUDIO004", "the file is cut short, or its header declares another length", why)


def damaged(why: str) -> Fault:
    return Fault("AUDIO005", "the file is damaged", why)


def unknown(why: str) -> Fault:
    return Fault("AUDIO002", "the file is not audio of a known kind", why)


def too_long(seconds: float) -> Fault:
    return Fault(
        "AUDIO008",
        f"the recording is longer than {seconds:g} s, or does not fit in memory",
        next="cut it into shorter files: ffmpeg -i IN -f segment -segment_time 600 -c copy OUT%03d.flac",
    )


def stalled(why: str) -> Fault:
    return Fault(
        "AUDIO009",
        "the decoder hung or crashed on this file",
        why,
        next="leave this file out, or convert it with another program",
    )


def limits(sample_rate: int, channels: int) -> None:
    """Raise the fault of a rate or a channel count that no recording of music has."""
    if not LEAST_RATE <= sample_rate <= MOST_RATE:
        raise Fault("AUDIO008", f"a sample rate of {sample_rate} Hz is outside {LEAST_RATE} to {MOST_RATE}")
    if not 1 <= channels <= MOST_CHANNELS:
        raise Fault("AUDIO008", f"{channels} channels are outside 1 to {MOST_CHANNELS}")


def after_id3(data: Bytes) -> int:
    """Where the ID3v2 tags at the start end; their lengths are of 7-bit bytes."""
    start = 0
    while bytes(data[start : start + 3]) == b"ID3" and start + 10 <= len(data):
        a, b, c, d = (byte & 0x7F for byte in data[start + 6 : start + 10])
        start += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if data[start + 5] & 0x10 else 0)
    return start

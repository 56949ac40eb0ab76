"""What every source of foreign codes gives: items that become clips, and rejects that say why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.errors import PartimentoError
from partimento.tokens.npq import NpqFile

MOST_BOOKS = 32  # of an array of which one axis must be books: no codec in use has more
# Frame rates of codecs in use: a rate within SNAP of one of them is that one, since files keep rounded rates (86.20 for
# 44100/512, when chunks of ten seconds were coded to 862 frames).
FRAME_RATES = (Fraction(44100, 512), Fraction(75), Fraction(50), Fraction(25, 2), Fraction(44100, 1024))
SNAP = Fraction(2, 1000)
ROUNDED = 5e-5  # what float32 or four decimals make of the exact rate, which is no other rate


@dataclass(frozen=True)
class Facts:
    """What is known of the codec that codes are of. `assumed` names the fields that no file says; a field is None where
    nothing can be assumed either. `books` as in CodecSpec."""

    codebooks: int
    cardinalities: tuple[int, ...] | None = None
    sample_rate: int | None = None
    frame_rate: Fraction | None = None
    layout: str = "mono"
    books: tuple[int, ...] = ()
    assumed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Labels:
    """What is written beside codes. `found` says where; `samples` is the exact length in samples where it is known;
    `entry` is the raw entry of a metadata.json, of which some sources read more."""

    found: str = "none"
    clip: str | None = None
    source: str | None = None
    samples: int | None = None
    tags: tuple[str, ...] = ()
    caption: str | None = None
    licence: str | None = None
    origin: str | None = None
    sha256: str | None = None
    loudness: float | None = None
    peak: float | None = None
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """Codes [T, K] of one clip. `file` is what it was read from, relative to the source; notes are counted."""

    clip: str
    file: str
    codes_TK: NDArray[np.integer[Any]]
    facts: Facts
    labels: Labels
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reject:
    """An input that does not become a clip, and why."""

    file: str
    code: str
    reason: str

    @classmethod
    def of(cls, file: str, error: PartimentoError) -> Reject:
        return cls(file, error.code, error.message + (f": {error.why}" if error.why else ""))

    def to_json(self) -> dict[str, str]:
        return {"file": self.file, "code": self.code, "reason": self.reason}


def unfit(why: str, *, where: str) -> PartimentoError:
    """CONVERT003: a file that is not what its kind says."""
    return PartimentoError(
        "CONVERT003",
        "the file does not hold codes in the form that its kind has",
        where=where,
        why=why,
        next="docs/convert.md has the form of each kind; leave the file out or convert it to one of them",
    )


def snap(fps: float) -> tuple[Fraction, str | None]:
    """The exact frame rate that a file's number means, and a note where it is another than the number."""
    for rate in FRAME_RATES:
        if abs(Fraction(fps) - rate) <= SNAP * rate:
            rounded = abs(fps - float(rate)) <= ROUNDED
            return rate, None if rounded else f"the frame rate {fps:.6g} was taken as {rate}"
    return Fraction(fps), None


def npq_facts(file: NpqFile) -> tuple[Facts, tuple[str, ...]]:
    """What an NPQ file says of its codec, and notes. It has no sample rate, and 44,100 Hz is assumed."""
    rate, note = snap(file.fps)
    side = file.channel_mode == "mid-side"
    facts = Facts(
        codebooks=len(file.vocab),
        cardinalities=file.vocab,
        sample_rate=44100,
        frame_rate=rate,
        layout=file.channel_mode,
        books=(file.k_mid, file.k_side) if side else (),
        assumed=frozenset({"sample_rate"}),
    )
    return facts, tuple(filter(None, [note])) + file.notes


def dac_facts(columns: int, sample_rate: int | None) -> Facts:
    """Of [T, 9 | 18] codes: DAC at 44.1 kHz, 18 columns being left and right. The files say the sample rate at most."""
    stated = sample_rate is not None
    rate = sample_rate if sample_rate is not None else 44100
    assumed = {"frame_rate", "cardinalities"} | (set() if stated else {"sample_rate"})
    return Facts(
        codebooks=columns,
        cardinalities=(1024,) * columns,
        sample_rate=rate,
        frame_rate=Fraction(44100, 512) if rate == 44100 else None,
        layout="left-right" if columns == 18 else "mono",
        books=(9, 9) if columns == 18 else (),
        assumed=frozenset(assumed),
    )


def encodec_facts(books: int) -> Facts:
    """Of [4, T] codes: EnCodec at 32 kHz, as MusicGen has it. Of other numbers of books nothing is known."""
    if books != 4:
        return Facts(codebooks=books)
    assumed = frozenset({"cardinalities", "sample_rate", "frame_rate"})
    return Facts(4, (2048,) * 4, 32000, Fraction(50), assumed=assumed)


def out_of_range(why: str, *, where: str) -> PartimentoError:
    """CONVERT006: numbers that are not codes of the codec."""
    return PartimentoError(
        "CONVERT006",
        "a number is not a code of this codec",
        where=where,
        why=why,
        next="name the codec with --codec, or the size of its books with --cardinality",
    )

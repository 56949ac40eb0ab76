"""NPQ, a file of codes: every version is read, NPQ1 and NPQ2 are written. All numbers are little-endian.

    NPQ1     "NPQ1", u16 version = 1, u16 K, f32 fps, f32 kbps, u32 T, u32[K] vocab, u8 dtype, codes [T, K]
    NPQ2     "NPQ2", u16 version = 1, u8 mode (0 mono, 1 mid and side), u16 k_mid, u16 k_side, f32 fps, f32 kbps, u32 T,
             u32[k_mid + k_side] vocab, u8 dtype, codes [T, k_mid + k_side], the columns of mid first
    v0 (i)   "NPQ1", i32 K, f32 fps, f32 kbps, i32 T, i32[K] vocab, u16 codes [T, K]
    v0 (ii)  "NPQ1", i32 K, f32 fps, i32[K] vocab, i32 T, u16 codes [T, K]

dtype is 0 u8, 1 u16, 2 u32. vocab is the number of codes of each book, kbps the bitrate of the source (0: unknown).
No version holds a sample rate or an exact number of samples.

Files that begin with "NPQ1" are tried as 1, (i), (ii), and no file can be two of them: what 1 reads as K is 0 in both
others, what (i) reads as kbps is in (ii) an integer below 65537 and so a denormal number, and what (ii) reads as the
first vocab is in (i) a float, 0 or far above 65536.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError

MOST_BOOKS = 512
MAGICS = (b"NPQ1", b"NPQ2")
DTYPES = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"))
SMALLEST_KBPS = 1e-3
_V1 = struct.Struct("<4sHHffI")
_V2 = struct.Struct("<4sHBHHffI")
_V0 = struct.Struct("<4sif")

ChannelMode = Literal["mono", "mid-side"]
Version = Literal["npq0-i", "npq0-ii", "npq1", "npq2"]


@dataclass(frozen=True)
class NpqFile:
    """What an NPQ file (or its text form) says. `codes_TK` are uint8, uint16 or uint32, columns mid then side;
    `vocab` the codes of each book; `k_side` 0 unless mid and side were coded."""

    codes_TK: NDArray[np.unsignedinteger[Any]]
    vocab: tuple[int, ...]
    fps: float
    kbps: float
    k_mid: int
    k_side: int
    channel_mode: ChannelMode
    version: Version
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Header:
    version: Version
    frames: int
    vocab: tuple[int, ...]
    fps: float
    kbps: float
    k_mid: int
    k_side: int
    dtype: np.dtype[Any]
    bytes: int

    @property
    def payload(self) -> int:
        return self.frames * len(self.vocab) * self.dtype.itemsize


class _Implausible(Exception):
    """This layout is not the file's; says why."""


class _Cut(_Implausible):
    """The layout could be the file's if there were more of it."""


def is_npq(head: bytes) -> bool:
    """Whether a file that begins with these bytes says that it is NPQ."""
    return head[:4] in MAGICS


def read(path: str | Path) -> NpqFile:
    """Read a file of any NPQ version; needs memory for the file and no more, whatever its header claims.

    Raises NPQ001 (not NPQ), NPQ002 (a header that cannot be), NPQ003 (cut), NPQ004 (a code that its book does not
    have), SYS004 (no such file).
    """
    return parse(_content(Path(path)), where=str(path))


def parse(content: bytes, *, where: str) -> NpqFile:
    """As `read`, of the bytes of a file; the codes are a view of them."""
    header = _detect(content, where)
    body = np.frombuffer(content, header.dtype, header.frames * len(header.vocab), offset=header.bytes)
    codes_TK = body.reshape(header.frames, len(header.vocab))
    check_range(codes_TK, header.vocab, where)
    trailing = len(content) - header.bytes - header.payload
    return NpqFile(
        codes_TK=codes_TK,
        vocab=header.vocab,
        fps=header.fps,
        kbps=header.kbps,
        k_mid=header.k_mid,
        k_side=header.k_side,
        channel_mode="mid-side" if header.k_side else "mono",
        version=header.version,
        notes=(f"{trailing} trailing byte(s) were passed over",) if trailing else (),
    )


def describe(path: str | Path) -> dict[str, Any]:
    """What the file at `path` says of itself, for people; reads and checks all of it. Raises as `read`."""
    content = _content(Path(path))
    header = _detect(content, str(path))
    file = parse(content, where=str(path))
    books = len(file.vocab)
    return {
        "file": str(path),
        "format": file.version,
        "channels": file.channel_mode,
        "books": f"{file.k_mid} mid + {file.k_side} side" if file.k_side else books,
        "vocab": list(file.vocab),
        "frames": header.frames,
        "fps": file.fps,
        "seconds": round(header.frames / file.fps, 3),
        "source_kbps": file.kbps or None,
        "stored_kbps": round(file.fps * books * header.dtype.itemsize * 8 / 1000, 3),
        "dtype": f"u{header.dtype.itemsize * 8}",
        "header_bytes": header.bytes,
        "trailing_bytes": len(content) - header.bytes - header.payload,
        "bytes": len(content),
    }


def write(path: str | Path, file: NpqFile, *, version: Literal["npq1", "npq2"]) -> None:
    """Write `file` as NPQ1 (mono only) or NPQ2; the dtype is the smallest that holds the vocab. Equal files are equal
    bytes. Raises NPQ005 where the format cannot say it, NPQ004 for a code out of its book, SYS002 (the disk)."""
    commit.data(Path(path), serialise(file, version=version, where=str(path)))


def serialise(file: NpqFile, *, version: Literal["npq1", "npq2"], where: str) -> bytes:
    """The bytes that `write` writes."""
    frames, books = file.codes_TK.shape
    wrong = _unsayable(file, version)
    if wrong:
        raise PartimentoError(
            "NPQ005",
            f"this cannot be written as {version.upper()}",
            where=where,
            why=wrong,
            next="choose another format: partimento pack export --help",
        )
    check_range(file.codes_TK, file.vocab, where)
    code = dtype_code(file.vocab)
    if version == "npq1":
        head = _V1.pack(b"NPQ1", 1, books, file.fps, file.kbps, frames)
    else:
        mode = 1 if file.k_side else 0
        head = _V2.pack(b"NPQ2", 1, mode, file.k_mid, file.k_side, file.fps, file.kbps, frames)
    head += struct.pack(f"<{books}IB", *file.vocab, code)
    return head + np.ascontiguousarray(file.codes_TK, DTYPES[code]).tobytes()


def dtype_code(vocab: Sequence[int]) -> int:
    """0 (u8), 1 (u16) or 2 (u32), from the largest book."""
    return 0 if max(vocab) <= 256 else 1 if max(vocab) <= 65536 else 2


def check_range(codes_TK: NDArray[np.integer[Any]], vocab: Sequence[int], where: str) -> None:
    """Raise NPQ004 for the first code that its book does not have."""
    if not len(codes_TK):
        return
    low_K, high_K = codes_TK.min(axis=0).tolist(), codes_TK.max(axis=0).tolist()
    for book, (low, high, limit) in enumerate(zip(low_K, high_K, vocab, strict=True)):
        if low < 0 or high >= limit:
            frame = int(np.flatnonzero((codes_TK[:, book] < 0) | (codes_TK[:, book] >= limit))[0])
            raise PartimentoError(
                "NPQ004",
                f"code {int(codes_TK[frame, book])} in frame {frame} of book {book}, which has {limit} codes",
                where=where,
                why="the file is damaged, or its header is of other codes",
                next="make the file again from its audio, or leave it out",
            )


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=commit.regular) as stream:
            magic = stream.read(4)
            return magic + (stream.read() if is_npq(magic) else b"")
    except OSError as err:
        raise PartimentoError("SYS004", f"{path} cannot be read", where=str(path), why=err.strerror) from err


def _detect(content: bytes, where: str) -> _Header:
    """The header of the first layout, in the order of the module's text, that fits the whole file."""
    if not is_npq(content):
        raise PartimentoError(
            "NPQ001",
            "the file is not NPQ",
            where=where,
            why=f"it begins with {content[:4]!r}, not with NPQ1 or NPQ2",
            next="partimento pack import SRC --to PACK finds out what a file is",
        )
    reasons: list[str] = []
    cut = False
    for layout in (_npq1, _npq0_i, _npq0_ii) if content[:4] == b"NPQ1" else (_npq2,):
        try:
            header = layout(content)
            if header.bytes + header.payload > len(content):
                raise _Cut(f"{header.frames} frames need {header.bytes + header.payload} bytes of {len(content)}")
            return header
        except _Implausible as reason:
            cut |= isinstance(reason, _Cut)
            reasons.append(f"as {layout.__name__.strip('_').replace('_', '-')}, {reason}")
    raise PartimentoError(
        "NPQ003" if cut else "NPQ002",
        "the file is cut short" if cut else "the header cannot be right",
        where=where,
        why="; ".join(reasons),
        next="fetch or make the file again, or leave it out",
    )


def _npq1(content: bytes) -> _Header:
    _, version, books, fps, kbps, frames = _unpack(_V1, content, 0)
    _demand(version == 1, f"version {version} is not known")
    _demand(1 <= books <= MOST_BOOKS, f"{books} books")
    vocab, dtype, end = _vocab_and_dtype(content, _V1.size, books)
    return _Header("npq1", frames, vocab, _rate(fps), _bitrate(kbps), books, 0, dtype, end)


def _npq2(content: bytes) -> _Header:
    _, version, mode, k_mid, k_side, fps, kbps, frames = _unpack(_V2, content, 0)
    _demand(version == 1, f"version {version} is not known")
    _demand(mode in (0, 1), f"channel mode {mode} is not known")
    _demand(k_mid >= 1 and k_mid + k_side <= MOST_BOOKS, f"{k_mid} + {k_side} books")
    _demand((k_side > 0) == (mode == 1), f"{k_side} side books in channel mode {mode}")
    vocab, dtype, end = _vocab_and_dtype(content, _V2.size, k_mid + k_side)
    return _Header("npq2", frames, vocab, _rate(fps), _bitrate(kbps), k_mid, k_side, dtype, end)


def _npq0_i(content: bytes) -> _Header:
    _, books, fps = _unpack(_V0, content, 0)
    _demand(1 <= books <= MOST_BOOKS, f"{books} books")
    kbps, frames, *vocab = _unpack(struct.Struct(f"<fi{books}i"), content, _V0.size)
    _demand(kbps == 0 or kbps >= SMALLEST_KBPS, f"a bitrate of {kbps} kbps")
    return _npq0("npq0-i", _V0.size + 8 + 4 * books, books, fps, kbps, frames, vocab)


def _npq0_ii(content: bytes) -> _Header:
    _, books, fps = _unpack(_V0, content, 0)
    _demand(1 <= books <= MOST_BOOKS, f"{books} books")
    *vocab, frames = _unpack(struct.Struct(f"<{books}ii"), content, _V0.size)
    return _npq0("npq0-ii", _V0.size + 4 + 4 * books, books, fps, 0.0, frames, vocab)


def _npq0(
    version: Version, end: int, books: int, fps: float, kbps: float, frames: int, vocab: Sequence[int]
) -> _Header:
    _demand(frames >= 0, f"{frames} frames")
    _demand(all(1 <= size <= 65536 for size in vocab), f"books of {min(vocab)} to {max(vocab)} codes in u16")
    return _Header(version, frames, tuple(vocab), _rate(fps), _bitrate(kbps), books, 0, DTYPES[1], end)


def _vocab_and_dtype(content: bytes, start: int, books: int) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    fields = struct.Struct(f"<{books}IB")
    *vocab, code = _unpack(fields, content, start)
    _demand(min(vocab) >= 1, "a book of no codes")
    _demand(code < len(DTYPES), f"dtype {code} is not known")
    return tuple(vocab), DTYPES[code], start + fields.size


def _unpack(fields: struct.Struct, content: bytes, start: int) -> tuple[Any, ...]:
    if start + fields.size > len(content):
        raise _Cut(f"the header alone needs {start + fields.size} bytes of {len(content)}")
    return fields.unpack_from(content, start)


def _rate(fps: float) -> float:
    _demand(math.isfinite(fps) and 1e-3 <= fps <= 1e6, f"{fps} frames per second")
    return fps


def _bitrate(kbps: float) -> float:
    _demand(math.isfinite(kbps) and kbps >= 0, f"a bitrate of {kbps} kbps")
    return kbps


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Implausible(f"it has {otherwise}")


def _unsayable(file: NpqFile, version: str) -> str | None:
    frames, books = file.codes_TK.shape
    if version == "npq1" and file.k_side:
        return "NPQ1 has no place for mid and side; NPQ2 has"
    if not 1 <= books <= MOST_BOOKS or file.k_mid + file.k_side != books or len(file.vocab) != books:
        return f"{books} columns, {file.k_mid} + {file.k_side} books, {len(file.vocab)} vocabularies"
    if frames >= 2**32 or not all(1 <= size < 2**32 for size in file.vocab):
        return f"{frames} frames and books of {max(file.vocab)} codes do not fit into 32 bits"
    try:
        _rate(file.fps)
        _bitrate(file.kbps)
        struct.pack("<ff", file.fps, file.kbps)
    except (_Implausible, OverflowError) as err:
        return str(err)
    return None

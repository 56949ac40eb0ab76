"""Shard files: many clips' codes back to back, and enough checksums to name what is damaged.

    0     64-byte header: magic "PARTCODE", version, K, dtype (1 = uint16), clips, frames, zeros, header crc32
    64    codes, frame-major, uint16 little-endian [frames, K]
    ...   one crc32 (uint32 little-endian) of each clip's codes, in order

The file's sha256 is kept outside of it, in the pack's commit.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError

MAGIC = b"PARTCODE"
VERSION = 1
UINT16 = 1
HEADER_BYTES = 64
_FIELDS = struct.Struct("<8sIIIIQ28x")  # 60 bytes; the header's crc32 follows
CODES = np.dtype("<u2")


@dataclass(frozen=True)
class Shard:
    """A row of the pack's shard list. `file` is relative to the pack."""

    file: str
    bytes: int
    frames: int
    clips: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def write(pack: Path, file: str, clips: Sequence[NDArray[np.integer]], cardinalities: Sequence[int]) -> Shard:
    """Put the codes [T, K] of `clips` into `pack/file`, whole or not at all.

    Raises PACK006 where a code is outside of its book, SYS002 where the disk is full.
    """
    K = len(cardinalities)
    frames = sum(len(codes_TK) for codes_TK in clips)
    head = _FIELDS.pack(MAGIC, VERSION, K, UINT16, len(clips), frames)
    parts: list[bytes | memoryview] = [head + struct.pack("<I", zlib.crc32(head))]
    checks = []
    for number, codes_TK in enumerate(clips):
        if codes_TK.ndim != 2 or codes_TK.shape[1] != K:
            raise ValueError(f"codes must be [T, {K}], not {codes_TK.shape}")
        check_range(codes_TK, cardinalities, where=f"{file}, clip {number}")
        body = np.ascontiguousarray(codes_TK, dtype=CODES).reshape(-1).view(np.uint8).data  # no copy of what is uint16
        parts.append(body)
        checks.append(zlib.crc32(body))
    parts.append(np.asarray(checks, dtype="<u4").tobytes())
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    commit.data(pack / file, parts)
    return Shard(file, sum(len(part) for part in parts), frames, len(clips), digest.hexdigest())


def check_range(codes_TK: NDArray[np.integer], cardinalities: Sequence[int], *, where: str) -> None:
    """Raise PACK006 unless every code lies in 0..cardinality-1 of its book."""
    if not len(codes_TK):
        return
    if codes_TK.dtype.kind == "u" and codes_TK.max() < min(cardinalities):  # ten times quicker than book by book
        return
    top_K = codes_TK.max(axis=0)
    low_K = codes_TK.min(axis=0)
    for book, cardinality in enumerate(cardinalities):
        if top_K[book] >= cardinality or low_K[book] < 0:
            wrong = top_K[book] if top_K[book] >= cardinality else low_K[book]
            raise PartimentoError(
                "PACK006",
                f"code {int(wrong)} in codebook {book}, which has {cardinality} codes",
                where=where,
                why="these codes are not of the codec that is named for them",
                next="encode the audio again with the codec that will decode it",
            )


def open_shard(pack: Path, shard: Shard, codebooks: int) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Map codes [frames, K] and per-clip checksums; header and size are checked against the pack's commit.

    Raises PACK005 (missing), PACK004 (damaged or of another shape).
    """
    path = pack / shard.file
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            raise damaged(pack, shard.file, f"it has {size} bytes where {shard.bytes} are recorded")
        with commit.machine_errors(path), path.open("rb") as stream:
            head = stream.read(HEADER_BYTES)
    except OSError as err:
        raise _unreadable(pack, shard, err) from err
    expected = (MAGIC, VERSION, codebooks, UINT16, shard.clips, shard.frames)
    if len(head) < HEADER_BYTES or zlib.crc32(head[:-4]) != struct.unpack("<I", head[-4:])[0]:
        raise damaged(pack, shard.file, "its header does not match the header's own checksum")
    if _FIELDS.unpack(head[:-4]) != expected:
        raise damaged(pack, shard.file, f"its header does not say what the pack does: {_FIELDS.unpack(head[:-4])}")
    body = shard.frames * codebooks * CODES.itemsize
    if size != HEADER_BYTES + body + 4 * shard.clips:
        raise damaged(pack, shard.file, "its size does not follow from its header")
    try:
        codes = np.memmap(path, dtype=CODES, mode="r", offset=HEADER_BYTES, shape=(shard.frames, codebooks))
        checks = np.fromfile(path, dtype="<u4", offset=HEADER_BYTES + body)
    except OSError as err:
        raise _unreadable(pack, shard, err) from err
    return codes, checks


def _unreadable(pack: Path, shard: Shard, err: OSError) -> PartimentoError:
    what = "is missing from the pack" if isinstance(err, FileNotFoundError) else "cannot be read"
    return PartimentoError(
        "PACK005",
        f"{shard.file} {what}",
        where=str(pack / shard.file),
        why=err.strerror,
        next=f"partimento pack repair {pack}",
    )


def damaged(pack: Path, file: str, why: str, *, clip: str | None = None) -> PartimentoError:
    """PACK004, naming the shard and, where known, the clip."""
    where = str(pack / file) + (f", clip {clip}" if clip else "")
    return PartimentoError(
        "PACK004",
        f"{file} does not match its recorded hash",
        where=where,
        why=why,
        next=f"partimento pack repair {pack}",
        clip=clip,
    )


def mend(pack: Path) -> str:
    return f"run the encode command that made {pack} again: it writes what is missing or damaged anew"

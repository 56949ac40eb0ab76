"""Making a pack out of codes: the split, the clip table and the commit.

`encode` writes shards from many processes and calls `finish`; `PackWriter` does both for codes that are at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import commit, keyed
from partimento.tokens import clips as table
from partimento.tokens import shards
from partimento.tokens.clips import ClipRow
from partimento.tokens.pack import FORMAT, SCHEMA_VERSION, Pack, checksum, fingerprint
from partimento.tokens.shards import Shard
from partimento.tokens.spec import CodecSpec

VALID_SHARE = 0.1


def shard_file(number: int) -> str:
    return f"shards/{number:06d}.bin"


def finish(
    folder: Path,
    spec: CodecSpec,
    rows: Sequence[ClipRow],
    shard_list: Sequence[Shard],
    rejects: Sequence[Mapping[str, Any]] = (),
    *,
    inputs: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Pack:
    """Split the clips, write clips.parquet and rejects.jsonl, and commit with pack.json.

    Everything written is a function of the arguments: no clock, no machine. `rejects` are {"file", "code", "reason"}.
    """
    rows = split(sorted(rows, key=lambda row: (row.shard, row.first_frame)))
    clips = table.from_rows(rows)
    table.write(folder / "clips.parquet", clips)
    lines = [json.dumps(reject, sort_keys=True, ensure_ascii=False) + "\n" for reject in rejects]
    commit.text(folder / "rejects.jsonl", "".join(lines))
    shard_list = sorted(shard_list, key=lambda shard: shard.file)
    content: dict[str, Any] = {
        "format": FORMAT,
        "schema": SCHEMA_VERSION,
        "codec": spec.to_json(),
        "versions": dict(versions or {}),
        "inputs": dict(inputs or {}),
        "splits": {name: _totals(rows, spec, name) for name in ("train", "valid")},
        "totals": {
            **_totals(rows, spec, None),
            "bytes": sum(shard.bytes for shard in shard_list),
            "rejects": dict(sorted(Counter(str(reject["code"]) for reject in rejects).items())),
        },
        "shards": [shard.to_json() for shard in shard_list],
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": commit.sha256(folder / name)}
            for name in ("clips.parquet", "rejects.jsonl")
        },
        "clips": clips.essentials(),
    }
    content["fingerprint"] = fingerprint(content)
    content["checksum"] = checksum(content)
    commit.record(folder / "pack.json", content)
    return Pack.open(folder)


def split(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """Put each source, whole, into `train` or `valid` by its hash, so that it falls on the same side in every pack.

    Sources that share a file (equal sha256) count as one, or a copy would leak. With two or more sources each side
    gets at least one.
    """
    group = _groups(rows)
    names = sorted(set(group.values()), key=lambda name: (keyed.uniform("split", name), name))
    valid = {name for name in names if keyed.uniform("split", name) < VALID_SHARE}
    if len(names) > 1:
        valid = (valid or {names[0]}) - ({names[-1]} if len(valid) == len(names) else set())
    else:
        valid = set()
    return [replace(row, split="valid" if group[row.source] in valid else "train") for row in rows]


def _groups(rows: Sequence[ClipRow]) -> dict[str, str]:
    """Source -> the first name (in sorted order) among the sources that it shares files with, directly or not."""
    parent = {row.source: row.source for row in rows}

    def root(source: str) -> str:
        while parent[source] != source:
            source = parent[source]
        return source

    first_with: dict[str, str] = {}
    for row in rows:
        if row.sha256 is not None:
            a, b = root(row.source), root(first_with.setdefault(row.sha256, row.source))
            parent[max(a, b)] = min(a, b)
    return {source: root(source) for source in parent}


def _totals(rows: Sequence[ClipRow], spec: CodecSpec, name: str | None) -> dict[str, Any]:
    chosen = [row for row in rows if name is None or row.split == name]
    return {
        "clips": len(chosen),
        "sources": len({row.source for row in chosen}),
        "frames": sum(row.frames for row in chosen),
        "seconds": round(sum(row.samples for row in chosen) / spec.sample_rate, 3),
    }


class PackWriter:
    """A pack from codes that are at hand (tests, imports).

    >>> writer = PackWriter(folder, spec)
    >>> writer.add(codes_TK, clip="a", tags=["piano"])
    >>> pack = writer.finish()
    """

    def __init__(self, folder: Path, spec: CodecSpec, *, clips_per_shard: int = 64) -> None:
        self.folder = Path(folder)
        self.spec = spec
        self.clips_per_shard = clips_per_shard
        self._rows: list[ClipRow] = []
        self._shards: list[Shard] = []
        self._open: list[NDArray[np.integer]] = []
        self._frames = 0

    def add(
        self,
        codes_TK: NDArray[np.integer],
        *,
        clip: str | None = None,
        source: str | None = None,
        samples: int | None = None,
        tags: Sequence[str] = (),
        caption: str | None = None,
        licence: str | None = None,
    ) -> None:
        """One clip. Its name is its number, and its source itself, unless given; the sha256 is that of its codes."""
        clip = clip if clip is not None else f"{len(self._rows):06d}"
        self._rows.append(
            ClipRow(
                clip=clip,
                source=clip if source is None else source,
                shard=len(self._shards),
                first_frame=self._frames,
                frames=len(codes_TK),
                samples=self.spec.samples(len(codes_TK)) if samples is None else samples,
                sha256=hashlib.sha256(np.ascontiguousarray(codes_TK, dtype=shards.CODES).tobytes()).hexdigest(),
                tags=tuple(tags),
                caption=caption,
                licence=licence,
            )
        )
        self._open.append(codes_TK)
        self._frames += len(codes_TK)
        if len(self._open) == self.clips_per_shard:
            self._close()

    def finish(self) -> Pack:
        self._close()
        return finish(self.folder, self.spec, self._rows, self._shards)

    def _close(self) -> None:
        if self._open:
            file = shard_file(len(self._shards))
            self._shards.append(shards.write(self.folder, file, self._open, self.spec.cardinalities))
        self._open, self._frames = [], 0

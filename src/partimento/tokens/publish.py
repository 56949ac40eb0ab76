"""Putting the tables of a pack beside those that are in use, and committing with pack.json.

A reader sees the old pack or the new one, whenever the writer is killed: a table that differs from the committed one
gets a new name (clips.000001.parquet), pack.json names it, and the old one goes after that.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import rows
from partimento.tokens.clips import SPLITS
from partimento.tokens.manifest import checksum, fingerprint, is_table, rejects_of, table_of
from partimento.tokens.pack import Pack
from partimento.tokens.rows import Counts
from partimento.tokens.spec import CodecSpec

LOCK = "pack.lock"


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """One writer of pack.json at a time. Raises PACK047 where another is at work (unless told to `wait`)."""
    holding = False
    try:
        with commit.lock(folder / LOCK, wait=wait):
            holding = True
            for place in (folder, folder / "edits"):  # what killed ones left
                commit.sweep(place)
            yield
    except OSError as err:
        if holding:
            raise
        busy = isinstance(err, BlockingIOError)
        raise PartimentoError(
            "PACK047",
            f"{folder} cannot be changed now",
            where=str(folder / LOCK),
            why="another edit or repair is at work there" if busy else f"the file system gives no lock: {err.strerror}",
            next="wait for it, or end it" if busy else "copy the pack to a local disk and change it there",
        ) from err


@dataclass(frozen=True)
class Written:
    """A file that was put into the pack, not yet committed."""

    name: str
    bytes: int
    sha256: str


def put_table(
    folder: Path, before: Mapping[str, Any] | None, stream: Iterable[pa.RecordBatch]
) -> tuple[Written, Counts]:
    """Write the clip table beside the one of the pack that is there (`before`, its pack.json)."""
    with commit.scratch(folder / "clips.parquet") as tmp:
        counts = rows.write(tmp, stream)
        return _put(folder, before, tmp, table_of(before) if before else None, "clips", ".parquet"), counts


def put_rejects(folder: Path, before: Mapping[str, Any] | None, lines: Iterable[str]) -> Written:
    """The same for the list of what is not in the pack, one JSON object a line."""
    with commit.scratch(folder / "rejects.jsonl") as tmp:
        with tmp.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(lines)
        return _put(folder, before, tmp, rejects_of(before) if before else None, "rejects", ".jsonl")


def _put(folder: Path, before: Mapping[str, Any] | None, tmp: Path, used: str | None, stem: str, end: str) -> Written:
    sha256, size = commit.sha256(tmp), tmp.stat().st_size
    name = used or stem + end
    if before is not None and used is not None and before["files"][used]["sha256"] != sha256:
        number = re.search(r"\d{6}", used)
        name = f"{stem}.{int(number[0]) + 1 if number else 1:06d}{end}"
    commit.place(tmp, folder / name)
    return Written(name, size, sha256)


def totals(counts: Counts, sources: Mapping[str, int], spec: CodecSpec) -> dict[str, dict[str, Any]]:
    """The `splits` of pack.json, and under "" the sums over all."""
    found = {}
    for key, names in {**{name: (name,) for name in SPLITS}, "": SPLITS}.items():
        found[key] = {
            "clips": sum(counts.clips[name] for name in names),
            "sources": sum(sources[name] for name in names),
            "frames": sum(counts.frames[name] for name in names),
            "seconds": round(sum(counts.samples[name] for name in names) / spec.sample_rate, 3),
        }
    return found


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its fingerprint and checksum."""
    named = {**content, "fingerprint": fingerprint(content)}
    return {**named, "checksum": checksum(named)}


def commit_pack(folder: Path, content: Mapping[str, Any]) -> Pack:
    """Write pack.json, remove the tables that it does not name, and open the pack."""
    commit.record(folder / "pack.json", sealed(content))
    for left in folder.iterdir():
        if is_table(left.name) and left.name not in content["files"]:
            left.unlink(missing_ok=True)
    return Pack.open(folder)

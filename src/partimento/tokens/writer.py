"""Making a pack out of codes: the split, the clip table and the commit.

`encode` writes shards from many processes and calls `finish`; `PackWriter` does both for codes that are at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import clips as table
from partimento.tokens import edits, labelfiles, shards, splits
from partimento.tokens import rows as tables
from partimento.tokens.clips import BATCH, SPLITS, ClipRow, Clips
from partimento.tokens.manifest import FORMAT, SCHEMA_VERSION, fingerprint, read_commit, table_of
from partimento.tokens.pack import Pack
from partimento.tokens.publish import commit_pack, locked, put_rejects, put_table, totals
from partimento.tokens.shards import Shard
from partimento.tokens.spec import CodecSpec


def shard_file(number: int) -> str:
    return f"shards/{number:06d}.bin"


def finish(
    folder: Path,
    spec: CodecSpec,
    rows: Iterable[ClipRow],
    shard_list: Sequence[Shard],
    rejects: Iterable[Mapping[str, Any]] = (),
    *,
    inputs: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    keep_splits: bool = False,
) -> Pack:
    """Split the clips, apply the edits that were made to the pack, write its tables and commit with pack.json.

    `rows` are consumed once; in the order of the shards they take no memory, apart from what the split needs.
    Everything written is a function of the arguments and of the pack that is already there (its edits and history): no
    clock, no machine. `rejects` are {"file", "code", "reason"}. With `keep_splits` the rows have splits.

    Raises PACK046 (an edit's record is gone), PACK001 (the pack.json that is there cannot be read), SYS002 (disk).
    """
    return finish_table(
        Path(folder),
        spec,
        tables.batches(rows),
        shard_list,
        rejects,
        inputs=inputs,
        versions=versions,
        keep_splits=keep_splits,
    )


def finish_table(
    folder: Path,
    spec: CodecSpec,
    stream: Iterable[pa.RecordBatch],
    shard_list: Sequence[Shard],
    rejects: Iterable[Mapping[str, Any]] = (),
    *,
    inputs: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    keep_splits: bool = False,
) -> Pack:
    """`finish` for clips that are Arrow record batches already; columns that are missing are null, `split` is filled.

    Millions of clips a second: the way to write large tables.
    """
    with locked(folder, wait=True), commit.scratch(folder / "rows.parquet") as spill:
        before = _before(folder)
        history, changes = edits.made(folder, before)
        tables.write(spill, tables.regular(stream))
        raw = table.read(spill)
        sides = raw.split_codes if keep_splits else splits.split(raw.source.arrow, _values(raw, "sha256"))
        sources = splits.sources(raw.source.arrow, sides)
        written, counts = put_table(folder, before, tables.patched(_in_order(spill, raw, sides), changes))
        codes = Counter[str]()
        refused = put_rejects(folder, before, _lines(rejects, codes))
        sums = totals(counts, sources, spec)
        shard_list = sorted(shard_list, key=lambda shard: shard.file)
        content: dict[str, Any] = {
            "format": FORMAT,
            "schema": SCHEMA_VERSION,
            "codec": spec.to_json(),
            "versions": dict(versions or {}),
            "inputs": dict(inputs or {}),
            "splits": {name: sums[name] for name in SPLITS},
            "totals": {
                **sums[""],
                "bytes": sum(shard.bytes for shard in shard_list),
                "rejects": dict(sorted(codes.items())),
            },
            "shards": [shard.to_json() for shard in shard_list],
            "files": {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in (written, refused)},
            "clips": counts.essentials,
        }
        content["history"] = _grown(history, before, fingerprint(content), written.sha256)
        return commit_pack(folder, content)


def _values(clips: Clips, name: str) -> Iterator[Any]:
    """A column's values, without holding the column."""
    for batch in clips.batches([name]):
        yield from batch.column(0).to_pylist()


def _before(folder: Path) -> dict[str, Any] | None:
    """pack.json of the pack that is there; None where there is none, or a damaged one that is to be made anew."""
    try:
        return read_commit(folder)
    except PartimentoError as err:
        if err.code == "SYS002" or (err.code == "PACK001" and not err.context["missing"]):
            raise  # it is there, but the system does not let us read it now
        return None


def _grown(
    history: list[dict[str, Any]], before: Mapping[str, Any] | None, new: str, clips_sha256: str
) -> list[dict[str, Any]]:
    """The history, with an entry if the pack became another one than it was."""
    was = before["fingerprint"] if before else history[-1]["fingerprint"] if history else None
    known = table_sha256(before) if before else history[-1]["clips_sha256"] if history else None
    if was is None or (was, known) == (new, clips_sha256):
        return history
    facts = {"was": was, "fingerprint": new, "clips_sha256": clips_sha256, "edit": None}
    return [*history, {"what": "encode", "why": "the pack was made again", **facts}]


def table_sha256(content: Mapping[str, Any]) -> str:
    """The hash of the clip table that pack.json names."""
    return str(content["files"][table_of(content)]["sha256"])


def _in_order(spill: Path, raw: Clips, sides: NDArray[np.int8]) -> Iterator[pa.RecordBatch]:
    """The rows by shard and first frame, with their splits."""
    shard, first = raw.shard, raw.first_frame
    rising = (shard[1:] > shard[:-1]) | ((shard[1:] == shard[:-1]) & (first[1:] >= first[:-1]))
    if rising.all():
        return tables.with_splits(raw.batches(), sides)
    order = np.lexsort((first, shard))
    mixed = pq.read_table(spill).take(order).combine_chunks()
    return tables.with_splits(mixed.to_batches(max_chunksize=BATCH), sides[order])


def _lines(rejects: Iterable[Mapping[str, Any]], codes: Counter[str]) -> Iterator[str]:
    """Rejects as lines of JSON, counted by their code in passing."""
    for reject in rejects:
        codes[str(reject["code"])] += 1
        line = json.dumps(reject, sort_keys=True, ensure_ascii=False)
        if not labelfiles.is_text(line):  # of a file's name; escaped it can be written, and is read as it was
            line = json.dumps(reject, sort_keys=True)
        yield line + "\n"


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
        origin: str | None = None,
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
                origin=origin,
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

"""Mending a pack without its recordings: clips of damaged shards leave it, and what stays is a valid pack.

(With the recordings at hand, `codecs.encode.repair` makes the shards anew.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from partimento.errors import PartimentoError
from partimento.tokens import rows, splits
from partimento.tokens.clips import SPLITS
from partimento.tokens.manifest import fingerprint, rejects_of
from partimento.tokens.pack import Pack, check_file
from partimento.tokens.publish import commit_pack, locked, put_rejects, put_table, totals
from partimento.tokens.store import local
from partimento.tokens.verify import shard_damage

DROPPED = "PACK043"


def damaged(pack: Pack) -> dict[int, list[PartimentoError]]:
    """The damaged shards with what is wrong in each; every clip is read."""
    found: dict[int, list[PartimentoError]] = {}
    for number, err in shard_damage(pack):
        found.setdefault(number, []).append(err)
    return found


def drop(path: str | Path, shards: Sequence[int]) -> Pack:
    """Take the clips of these shards out of the pack. Its other clips keep their splits, rejects.jsonl names those that
    left, the history says so, the fingerprint changes. The shards' files are removed only when that is committed.

    Raises PACK044 (no such shard, or nothing would stay), PACK047 (another edit or repair), what `Pack.open` raises,
    PACK003 (rejects.jsonl is damaged), FAR008 (a URL), SYS002.
    """
    path = local(path)
    with locked(path):
        pack = Pack.open(path)
        gone = sorted(set(shards))
        require(pack, gone)
        pack.check_places()
        before = pack.content
        check_file(path, before, rejects_of(before))
        keep = ~np.isin(pack.clips.shard, gone)
        table, counts = put_table(path, before, rows.regular(_kept(pack, keep)))
        refused = put_rejects(path, before, _lines(pack, keep))
        kept_sources = pack.clips.source.arrow.filter(pa.array(keep))
        sums = totals(counts, splits.sources(kept_sources, pack.clips.split_codes[keep]), pack.spec)
        stay = [shard.to_json() for number, shard in pack.shards.items() if number not in gone]
        codes = dict(before["totals"]["rejects"])
        codes[DROPPED] = codes.get(DROPPED, 0) + int((~keep).sum())
        content = {
            **before,
            "splits": {name: sums[name] for name in SPLITS},
            "totals": {
                **sums[""],
                "bytes": sum(shard["bytes"] for shard in stay),
                "rejects": dict(sorted(codes.items())),
            },
            "shards": stay,
            "files": {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in (table, refused)},
            "clips": counts.essentials,
        }
        entry = {
            "what": "drop",
            "why": f"dropped {', '.join(pack.shards[number].file for number in gone)}",
            "edit": None,
            "was": pack.fingerprint,
            "fingerprint": fingerprint(content),
            "clips_sha256": table.sha256,
        }
        made = commit_pack(path, {**content, "history": [*before["history"], entry]})
        for number in gone:
            (path / pack.shards[number].file).unlink(missing_ok=True)
        return made


def require(pack: Pack, numbers: Sequence[int]) -> None:
    """Raise PACK044 unless these are shards of the pack, and not all of them."""
    unknown = [number for number in numbers if number not in pack.shards]
    if unknown or not numbers or len(numbers) == len(pack.shards):
        raise PartimentoError(
            "PACK044",
            f"the pack has no shard {unknown[0]}" if unknown else "no shard" if not numbers else "nothing would stay",
            where=str(pack.path),
            why=f"it has {len(pack.shards)} shards, {min(pack.shards)} to {max(pack.shards)}" if pack.shards else "",
            next=f"partimento pack repair {pack.path}",
        )


def _kept(pack: Pack, keep: np.ndarray) -> Iterator[pa.RecordBatch]:
    at = 0
    for batch in pack.clips.batches():
        yield batch.filter(pa.array(keep[at : at + len(batch)]))
        at += len(batch)


def _lines(pack: Pack, keep: np.ndarray) -> Iterator[str]:
    """The rejects that there were, and one for each clip that leaves."""
    with (pack.path / rejects_of(pack.content)).open(encoding="utf-8", newline="\n") as stream:
        yield from stream
    for clip in np.flatnonzero(~keep).tolist():
        file = pack.shards[int(pack.clips.shard[clip])].file
        reject = {"file": pack.clips.clip[clip], "code": DROPPED, "reason": f"its shard {file} was dropped"}
        yield json.dumps(reject, sort_keys=True, ensure_ascii=False) + "\n"

"""Checking a whole pack: everything that is wrong, one error each, and never the first only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import edits, rows, shards
from partimento.tokens.manifest import checksum, read_commit, rejects_of, table_of
from partimento.tokens.pack import Pack, check_file, unequal
from partimento.tokens.store import is_far


@dataclass(frozen=True)
class Verification:
    """What `verify` found; `damage` holds one error (as plain data) for each damaged or missing piece."""

    path: str
    fingerprint: str | None
    full: bool
    shards: int
    clips: int
    damage: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        return not self.damage

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def verify(path: str | Path, *, full: bool = True) -> Verification:
    """Check a pack and list all that is wrong. Raises only what is not damage: PACK001 (no pack there), FAR errors."""
    while True:
        try:
            if is_far(path):
                return _verify_far(path, full)
            pack = Pack.open(path)
        except PartimentoError as err:
            if not err.code.startswith("PACK") or err.code == "PACK001":
                raise
            return Verification(str(path), None, full, 0, 0, [err.to_json()])
        found = [err.to_json() for err in damage(pack, full=full)]
        if not found or read_commit(Path(path)) == pack.content:
            break  # else it was edited meanwhile, and what was wrong may be that the old table is gone
    return Verification(str(path), pack.fingerprint, full, len(pack.shards), len(pack.clips), found)


def _verify_far(path: str | Path, full: bool) -> Verification:
    """Of what is in the store, not in the cache. Whether its clips lie right is left to the one who reads them."""
    from partimento.tokens import far

    content, found = far.damage(path, full=full)
    damage_ = [err.to_json() for err in found]
    return Verification(
        str(path), content["fingerprint"], full, len(content["shards"]), content["totals"]["clips"], damage_
    )


def damage(pack: Pack, *, full: bool = True) -> list[PartimentoError]:
    """Sizes and headers of all shards, where the clips lie, and that edits and journal belong to the pack; if `full`
    also the hash of every file and every clip."""
    found = [err for _, err in shard_damage(pack, full=full)]
    found += _errors(pack.check_places)
    if full:
        found += _errors(check_file, pack.path, pack.content, rejects_of(pack.content))
        found += _errors(_check_essentials, pack)
    return found + _edit_damage(pack) + _journal_damage(pack, full=full)


def shard_damage(pack: Pack, *, full: bool = True) -> Iterator[tuple[int, PartimentoError]]:
    """(shard number, what is wrong with it), one for each damaged clip, or for the shard as a whole."""
    for number, shard in pack.shards.items():
        pack.release(number)
        wrong = _errors(pack.shard_codes, number)
        if full and not wrong:
            first = pack.shard_starts[number]
            for clip in range(first, first + shard.clips):
                wrong += _errors(pack.check_clip, clip)
                if wrong and wrong[-1].code == "PACK041":  # the table is at fault, and said so elsewhere
                    wrong.pop()
                    break
            if not wrong and commit.sha256(pack.path / shard.file) != shard.sha256:
                wrong.append(shards.damaged(pack.path, shard.file, "its sha256 is another than the recorded one"))
        yield from ((number, err) for err in wrong)


def _check_essentials(pack: Pack) -> None:
    check_file(pack.path, pack.content, table_of(pack.content))
    if rows.essentials(pack.clips.batches()) != pack.content["clips"]:
        raise unequal(pack.path, table_of(pack.content), "its rows are not those that pack.json was made for")


def _edit_damage(pack: Pack) -> list[PartimentoError]:
    """Every edit in the history has its record, and the record says the same."""
    found: list[PartimentoError] = []
    for entry in pack.history:
        if entry["edit"] is not None:
            found += _errors(_check_edit, pack.path, entry)
    if pack.history and pack.history[-1]["fingerprint"] != pack.fingerprint:
        found.append(_foreign(pack.path / "pack.json", "its history ends with another fingerprint than its own"))
    return found


def _check_edit(path: Path, entry: dict[str, Any]) -> None:
    edits.read_record(path, entry["edit"])
    if commit.sha256(edits.record_path(path, entry["edit"])) != entry["record"]["sha256"]:
        raise _foreign(edits.record_path(path, entry["edit"]), "it is another edit than the one in the pack's history")


def _journal_damage(pack: Pack, *, full: bool) -> list[PartimentoError]:
    """What the journal of an encode says of a shard is what the pack has. Imported packs have no journal."""
    found = []
    known = {shard.file: shard for shard in pack.shards.values()}
    for place in sorted((pack.path / "journal").glob("[0-9]*.json")) if full else ():
        try:
            record = json.loads(place.read_bytes())
            right = record["checksum"] == checksum(record)
            shard = record["shard"]
            right = right and (shard is None or shard["file"] not in known or known[shard["file"]].to_json() == shard)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            right = False
        if not right:
            found.append(_foreign(place, "it is damaged, or of another shard than the one in the pack"))
    return found


def _foreign(place: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK046",
        f"{place.name} does not belong to this pack",
        where=str(place),
        why=why,
        next="bring the file back from a copy of the pack; the pack itself can still be read",
    )


def _errors(check: Callable[..., object], *args: Any) -> list[PartimentoError]:
    try:
        check(*args)
    except PartimentoError as err:
        return [err]
    return []

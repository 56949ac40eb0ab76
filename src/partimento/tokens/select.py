"""Choosing clips of a pack by tags, licence and split: in training by number, or as a new pack. Whole tags only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens import publish, rows, shards, splits, tags, tagtable, writer
from partimento.tokens.clips import SPLITS, Clips
from partimento.tokens.licence import Allowed
from partimento.tokens.manifest import FORMAT, SCHEMA_VERSION
from partimento.tokens.pack import Pack
from partimento.tokens.store import local

# Why a clip is left out; the first of these that holds is its reason.
REASONS = {
    "TAGS006": "its split is not among those chosen",
    "TAGS005": "it lacks a tag that was asked for",
    "TAGS004": "it has a tag that was to be left out",
    "LICENCE003": "it has no licence",
    "LICENCE001": "its licence cannot be parsed",
    "LICENCE002": "its licence asks for more than is allowed",
}
_CODES = list(REASONS)


@dataclass(frozen=True)
class Choice:
    """`clips` int64, the numbers of those chosen, in order; `left_out` counts the others by the code of their reason;
    `reason_C` int8 for each clip of the pack: 0 chosen, else 1 + the place of its reason in `REASONS`."""

    clips: NDArray[np.int64]
    left_out: dict[str, int]
    reason_C: NDArray[np.int8]


@dataclass(frozen=True)
class Selection:
    """Clips that have all of `with_tags`, none of `without_tags`, a licence that `licence` allows, in one of `splits`.

    A clip without a licence, or with one that cannot be parsed, is not allowed. `licence` None does not look at it.
    """

    with_tags: tuple[str, ...] = ()
    without_tags: tuple[str, ...] = ()
    licence: Allowed | None = None
    splits: tuple[str, ...] = SPLITS

    def clips(self, pack: Pack, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the clips chosen, of one split if it is named.

        Raises TAGS003 (a tag that no clip has), TAGS008 (nothing is left), PACK008 (the split is empty anyway).
        """
        if split is not None:
            pack.split(split)
        found = self.choose(pack).clips
        if split is not None:
            found = found[pack.clips.split_codes[found] == SPLITS.index(split)]
        if not len(found):
            raise self.nothing(pack, split)
        return found

    def choose(self, pack: Pack) -> Choice:
        """All clips of a pack, and for each that is left out the reason. Raises TAGS003."""
        clips = pack.clips
        reason_C = np.zeros(len(clips), dtype=np.int8)

        def leave_out(where_C: NDArray[np.bool_], code: str) -> None:
            reason_C[(reason_C == 0) & where_C] = 1 + _CODES.index(code)

        if set(self.splits) != set(SPLITS):
            leave_out(~np.isin(clips.split_codes, [SPLITS.index(name) for name in self.splits]), "TAGS006")
        if self.with_tags or self.without_tags:
            table = tagtable.tag_table(clips)
            for tag in self.with_tags:
                leave_out(~_has(table, self._number(pack, table, tag)), "TAGS005")
            for tag in self.without_tags:
                leave_out(_has(table, self._number(pack, table, tag)), "TAGS004")
        if self.licence is not None:
            verdicts_C = _verdicts(clips, self.licence)
            for code in ("LICENCE003", "LICENCE001", "LICENCE002"):
                leave_out(verdicts_C == 1 + _CODES.index(code), code)
        counts = np.bincount(reason_C, minlength=len(_CODES) + 1)[1:].tolist()
        left_out = {code: count for code, count in zip(_CODES, counts, strict=True) if count}
        return Choice(np.flatnonzero(reason_C == 0).astype(np.int64), left_out, reason_C)

    def to_json(self) -> dict[str, Any]:
        return {
            "with_tags": list(self.with_tags),
            "without_tags": list(self.without_tags),
            "licence": None if self.licence is None else str(self.licence),
            "splits": list(self.splits),
        }

    def _number(self, pack: Pack, table: tagtable.TagTable, tag: str) -> int:
        if tag in table.names:
            return table.names.index(tag)
        hint = tags.nearest(tag, sorted(table.names))
        raise PartimentoError(
            "TAGS003",
            f"no clip has the tag {tag!r}" + (f"; did you mean {' or '.join(map(repr, hint))}?" if hint else ""),
            where=pack.name,
            why="tags are matched whole, and a filter for a tag that is not there would do nothing, unseen",
            next=f"partimento tags list {pack.name}",
        )

    def nothing(self, pack: Pack, split: str | None = None) -> PartimentoError:
        left_out = self.choose(pack).left_out
        return PartimentoError(
            "TAGS008",
            "no clip is left" + (f" in the split {split!r}" if split else ""),
            where=pack.name,
            why="; ".join(f"{count} left out, since {REASONS[code]}" for code, count in left_out.items()) or None,
            next="ask for less",
        )


def write(pack: Pack, folder: Path, selection: Selection, progress: Progress | None = None) -> Pack:
    """A new pack at `folder` of the clips that `selection` chooses, each in the split that it has.

    Shards are written anew from verified codes; what is left out is listed in the new pack's rejects; `inputs` names
    the fingerprint of the pack it was made from. Raises TAGS009 where there is something at `folder`, FAR008 (a URL),
    what `clips` raises, and PACK004 to PACK006 for damaged codes.
    """
    folder = local(folder)
    if folder.exists():
        raise PartimentoError(
            "TAGS009",
            f"{folder} exists already",
            where=str(folder),
            why="a new pack is made whole or not at all, and never over another",
            next="choose another folder with --to",
        )
    choice = selection.choose(pack)
    if not len(choice.clips):
        raise selection.nothing(pack)
    with commit.folder(folder) as tmp:
        _fill(tmp, pack, selection, choice, progress or Quiet())
    return Pack.open(folder)


def _fill(folder: Path, pack: Pack, selection: Selection, choice: Choice, progress: Progress) -> None:
    pack.check_places()
    groups = _by_shard(pack, choice)
    shard_list = []
    for number, chosen in enumerate(groups):
        codes = [pack.read(clip) for clip in chosen]
        shard_list.append(shards.write(folder, writer.shard_file(number), codes, pack.spec.cardinalities))
        pack.release(int(pack.clips.shard[chosen[0]]))
        progress.update(number + 1, len(groups))
    table, counts = publish.put_table(folder, None, rows.regular(_kept(pack, choice, groups)))
    refused = publish.put_rejects(folder, None, _rejects(pack, choice))
    kept_sources = pack.clips.source.arrow.filter(pa.array(choice.reason_C == 0))
    sums = publish.totals(counts, splits.sources(kept_sources, pack.clips.split_codes[choice.clips]), pack.spec)
    publish.commit_pack(
        folder,
        {
            "format": FORMAT,
            "schema": SCHEMA_VERSION,
            "codec": pack.content["codec"],
            "versions": pack.content["versions"],
            "inputs": {
                "parent": pack.fingerprint,
                "selection": selection.to_json(),
                "parent_inputs": pack.content["inputs"],
            },
            "splits": {name: sums[name] for name in SPLITS},
            "totals": {
                **sums[""],
                "bytes": sum(shard.bytes for shard in shard_list),
                "rejects": dict(sorted(choice.left_out.items())),
            },
            "shards": [shard.to_json() for shard in shard_list],
            "files": {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in (table, refused)},
            "clips": counts.essentials,
            "history": [],
        },
    )


def _has(table: tagtable.TagTable, number: int) -> NDArray[np.bool_]:
    """[clips] bool: which of them have the tag of this number."""
    hits = np.concatenate([[0], np.cumsum(table.ids == number)])
    return np.diff(hits[table.ends], prepend=0) > 0


def _verdicts(clips: Clips, allowed: Allowed) -> NDArray[np.int8]:
    """[clips] int8: 0 allowed, else as `Choice.reason_C`. Each text is parsed once, however many clips have it."""
    known: dict[str | None, int] = {}
    parts: list[NDArray[np.int8]] = []
    for chunk in clips.licence.arrow.chunks:
        if not isinstance(chunk, pa.DictionaryArray):
            chunk = chunk.dictionary_encode()
        texts = [*chunk.dictionary.to_pylist(), None]
        for text in texts:
            if text not in known:
                known[text] = _verdict(text, allowed)
        places = pc.fill_null(chunk.indices, len(texts) - 1).to_numpy()
        parts.append(np.asarray([known[text] for text in texts], dtype=np.int8)[places])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int8)


def _verdict(text: str | None, allowed: Allowed) -> int:
    try:
        allowed.check(text)
    except PartimentoError as err:
        return 1 + _CODES.index(err.code)
    return 0


def _by_shard(pack: Pack, choice: Choice) -> list[list[int]]:
    """The clips chosen of each shard that has any; each list becomes a shard."""
    numbers = pack.clips.shard[choice.clips]
    borders = np.flatnonzero(np.diff(numbers)) + 1
    return [part.tolist() for part in np.split(choice.clips, borders)]


def _kept(pack: Pack, choice: Choice, groups: list[list[int]]) -> Iterator[pa.RecordBatch]:
    """The rows of the clips chosen, each with its place in the new shards."""
    shard_C = np.repeat(np.arange(len(groups), dtype=np.int32), [len(group) for group in groups])
    frames_C = pack.clips.frames[choice.clips].astype(np.int64)
    ends_C = np.cumsum(frames_C)
    group_starts = np.searchsorted(shard_C, np.arange(len(groups)))
    first_C = ends_C - frames_C - (ends_C - frames_C)[group_starts][shard_C]
    at = done = 0
    for batch in pack.clips.batches():
        kept = batch.filter(pa.array(choice.reason_C[at : at + len(batch)] == 0))
        part = slice(done, done + len(kept))
        at, done = at + len(batch), done + len(kept)
        for name, values in (("shard", shard_C), ("first_frame", first_C)):
            kept = kept.set_column(kept.schema.get_field_index(name), name, pa.array(values[part]))
        yield kept


def _rejects(pack: Pack, choice: Choice) -> Iterator[str]:
    for clip in np.flatnonzero(choice.reason_C).tolist():
        code = _CODES[int(choice.reason_C[clip]) - 1]
        reject = {"file": pack.clips.clip[clip], "code": code, "reason": REASONS[code]}
        yield json.dumps(reject, sort_keys=True, ensure_ascii=False) + "\n"

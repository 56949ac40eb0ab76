"""Reading packs: a folder of codes that is verified before it is believed.

What is checked, and when: pack.json (its checksum, and whether it makes sense) and the clip table's sha256 on opening;
where the clips lie when the first is read; a shard's size and header when it is first touched; a clip's crc32 and the
range of its codes when it is first read. `verify="quick"` touches all shards at once, `verify="full"` hashes
everything. `damage()` lists all that is wrong instead of stopping at the first.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import clips as table
from partimento.tokens import shards
from partimento.tokens.clips import SPLITS, Clips
from partimento.tokens.manifest import (
    FORMAT,
    SCHEMA_VERSION,
    checksum,
    fingerprint,
    inspect,
    parse_commit,
    read_commit,
    shard_number,
    table_of,
)
from partimento.tokens.shards import Shard
from partimento.tokens.spec import CodecSpec
from partimento.tokens.store import is_far

__all__ = [
    "FORMAT",
    "SCHEMA_VERSION",
    "SPLITS",
    "Pack",
    "checksum",
    "fingerprint",
    "inspect",
    "parse_commit",
    "read_commit",
]

UNSEEN, WHOLE, DAMAGED = 0, 1, 2
_BLOCK = 2**20  # clips whose places are checked at a time
Verify = Literal["lazy", "quick", "full"]


class Pack:
    """An opened pack. Use `Pack.open`.

    `name` is what people call it: its folder, or the URL of which `path` is the cache. `content` is pack.json as it is.
    `fetch(shard)` is called before a shard's file is opened, for packs whose shards come from elsewhere.
    `corrupt_budget` is how many damaged clips `ensure` bears before it raises; `corrupt` are the errors that it bore.
    """

    def __init__(
        self,
        path: Path,
        content: dict[str, Any],
        clips: Clips,
        fetch: Callable[[Shard], None] | None = None,
        corrupt_budget: int = 0,
        name: str | None = None,
    ) -> None:
        self.path = path
        self.name = name or str(path)
        self.content = content
        self.spec = CodecSpec.from_json(content["codec"])
        self.fingerprint: str = content["fingerprint"]
        self.clips = clips
        self.shards = {shard_number(shard["file"]): Shard(**shard) for shard in content["shards"]}
        self.totals: dict[str, Any] = content["totals"]
        self.fetch = fetch
        self.corrupt_budget = corrupt_budget
        self.corrupt: list[PartimentoError] = []
        if len(clips) != self.totals["clips"]:
            raise table.unsound(clips.path, f"it has {len(clips)} rows, and pack.json {self.totals['clips']} clips")
        self._mapped: dict[int, tuple[NDArray[np.uint16], NDArray[np.uint32]]] = {}
        self._state = np.zeros(len(clips), dtype=np.uint8)
        counts = [shard.clips for shard in self.shards.values()]
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.shard_starts = dict(zip(self.shards, starts[:-1].tolist(), strict=True))
        """Number of the first clip of each shard; the clips of a shard follow one another."""

    @classmethod
    def open(cls, path: str | Path, verify: Verify = "lazy", corrupt_budget: int = 0) -> Pack:
        """Open the pack at `path`, a folder or any URL that fsspec reads.

        Raises PACK001 (no pack there, or an encode that has not finished), PACK002 (pack.json changed, or of another
        schema), PACK003 (the clip table is another), PACK040, PACK041 (pack.json or table hold what cannot be), and
        unless `verify` is "lazy" PACK004 to PACK006 (shards, see `read`), PACK046.
        """
        if is_far(path):
            from partimento.tokens import far

            return far.open_pack(path, verify=verify, corrupt_budget=corrupt_budget)
        path = Path(path)
        while True:
            content = read_commit(path)
            try:
                check_file(path, content, table_of(content))
                pack = cls(path, content, table.read(path / table_of(content)), corrupt_budget=corrupt_budget)
                if verify != "lazy" and (damage := pack.damage(full=verify == "full")):
                    raise damage[0]
                return pack
            except PartimentoError:
                if read_commit(path) == content:  # else an edit was committed, and the old table removed, in between
                    raise

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was done to the pack after it was made, first to last: {what, why, edit (number of its record or None),
        was (the fingerprint before), fingerprint, clips_sha256 (of the table, after)}."""
        return list(self.content["history"])

    def read(self, clip: int, first: int = 0, last: int | None = None) -> NDArray[np.uint16]:
        """Codes [n, K] of frames first..last-1 of clip number `clip`, a read-only view of the file.

        The clip is verified whole when it is first read: PACK004 names shard and clip where its crc32 is not the
        recorded one, PACK005 a missing shard, PACK006 a code that its book does not have.
        """
        if not 0 <= clip < len(self._state):
            raise ValueError(f"there is no clip {clip} in a pack of {len(self._state)}")
        frames = int(self.clips.frames[clip])
        last = frames if last is None else last
        if not 0 <= first <= last <= frames:
            raise ValueError(f"frames {first}..{last} are outside of clip {clip}, which has {frames}")
        if self._state[clip] != WHOLE:
            self.check_clip(clip)
        start = int(self.clips.first_frame[clip])
        return self.shard_codes(int(self.clips.shard[clip]))[start + first : start + last]

    def ensure(self, clips: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Verify those of `clips` [n] that were not read before; bool [n], which of them are whole.

        Raises what `read` raises; with a `corrupt_budget`, damaged clips are False and counted in `corrupt`, and
        PACK042 is raised when there are more than the budget allows.
        """
        for clip in np.unique(clips[self._state[clips] == UNSEEN]):
            try:
                self.check_clip(int(clip))
            except PartimentoError as err:
                if err.code not in ("PACK004", "PACK005", "PACK006") or not self.corrupt_budget:
                    raise
                self._state[clip] = DAMAGED
                self.corrupt.append(err)
                if len(self.corrupt) > self.corrupt_budget:
                    raise PartimentoError(
                        "PACK042",
                        f"{len(self.corrupt)} clips are damaged, and {self.corrupt_budget} were allowed",
                        where=err.where,
                        why=f"the last: {err.message}: {err.why}",
                        next=f"partimento pack repair {self.name}",
                    ) from err
        return np.asarray(self._state[clips] == WHOLE)

    def shard_codes(self, number: int) -> NDArray[np.uint16]:
        """Codes [frames, K] of a whole shard, mapped; its header is verified, its clips are not (see `ensure`).

        Raises PACK004, PACK005.
        """
        return self._open_shard(number)[0]

    def release(self, number: int) -> None:
        """Let go of a shard's map; it is opened again when it is needed."""
        self._mapped.pop(number, None)

    def check_clip(self, clip: int) -> None:
        """Verify one clip, whether or not it was read before. Raises PACK004, PACK005, PACK006, PACK041."""
        self.check_places()
        number, start = int(self.clips.shard[clip]), int(self.clips.first_frame[clip])
        codes, checks = self._open_shard(number)
        codes_TK = codes[start : start + int(self.clips.frames[clip])]
        if zlib.crc32(np.ascontiguousarray(codes_TK).data) != checks[clip - self.shard_starts[number]]:
            why = "the crc32 of its codes is another than the recorded one"
            raise self.damaged(self.shards[number].file, why, clip=self.clips.clip[clip])
        shards.check_range(
            codes_TK, self.spec.cardinalities, where=f"{self.path / self.shards[number].file}, clip number {clip}"
        )
        self._state[clip] = WHOLE

    def check_places(self) -> None:
        """Check once that the clips of the table fill their shards without gap or overlap. Raises PACK041."""
        return self._places

    @cached_property
    def _places(self) -> None:
        clips, rows = self.clips, len(self.clips)
        numbers = np.asarray(list(self.shards), dtype=np.int64)
        lengths = np.asarray([shard.frames for shard in self.shards.values()], dtype=np.int64)
        clip_ends = np.cumsum([shard.clips for shard in self.shards.values()], dtype=np.int64)
        frame_starts = np.cumsum(lengths) - lengths
        passed = 0
        for first in range(0, rows, _BLOCK):
            block = slice(first, min(first + _BLOCK, rows))
            place = np.searchsorted(clip_ends, np.arange(block.start, block.stop), side="right")
            starts, frames = clips.first_frame[block].astype(np.int64), clips.frames[block].astype(np.int64)
            ends = passed + np.cumsum(frames)
            right = (clips.shard[block] == numbers[place]) & (frames <= lengths[place])
            right &= (starts <= lengths[place] - frames) & (starts == ends - frames - frame_starts[place])
            if not right.all():
                row = int(first + np.argmin(right))
                raise table.unsound(clips.path, f"row {row} does not lie where the clip before it ends in its shard")
            passed = int(ends[-1])
        if passed != lengths.sum():
            raise table.unsound(clips.path, "its clips do not fill the last shard")

    def damaged(self, file: str, why: str, *, clip: str | None = None) -> PartimentoError:
        """PACK004, or of a table PACK003; in the cache of a far pack, the file is simply fetched again."""
        known = any(shard.file == file for shard in self.shards.values())
        err = shards.damaged(self.path, file, why, clip=clip) if known else unequal(self.path, file, why)
        if self.fetch is not None:
            err.next = f"rm {self.path / file}, which is a copy: then it is fetched again from {self.name}"
        return err

    def _open_shard(self, number: int) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
        found = self._mapped.get(number)
        if found is None:
            if self.fetch is not None:
                self.fetch(self.shards[number])
            found = self._mapped[number] = shards.open_shard(self.path, self.shards[number], self.spec.codebooks)
        return found

    def split(self, name: str) -> NDArray[np.int64]:
        """Clip numbers of "train" or "valid"; PACK008 where the split is empty."""
        chosen = np.flatnonzero(self.clips.split_codes == SPLITS.index(name)).astype(np.int64)
        if not len(chosen):
            raise PartimentoError(
                "PACK008",
                f"the pack has no clips in its split {name!r}",
                where=self.name,
                why=f"it holds {self.totals['sources']} source(s); a held-out split needs two at least",
                next="encode more recordings, or give their sources in tags.jsonl",
            )
        return chosen

    @cached_property
    def tag_vocabulary(self) -> list[str]:
        """Tags of the train split, sorted: the columns of a multi-hot condition."""
        names: set[str] = set()
        train, at = self.clips.split_codes == SPLITS.index("train"), 0
        for chunk in self.clips.tags.arrow.chunks:
            kept = chunk.filter(pa.array(train[at : at + len(chunk)]))
            names.update(pc.unique(kept.flatten()).to_pylist())
            at += len(chunk)
        return sorted(names)

    def clip_number(self, name: str) -> int:
        """The number of the clip of this name; PACK019 where there is none."""
        try:
            return self.clips.clip.index(name)
        except ValueError:
            raise PartimentoError(
                "PACK019",
                f"the pack has no clip {name!r}",
                where=self.name,
                next=f"partimento tags list {self.name}",
            ) from None

    def damage(self, *, full: bool = True) -> list[PartimentoError]:
        """Everything wrong with the pack's files, one error each (see `verify.damage`)."""
        from partimento.tokens.verify import damage

        return damage(self, full=full)


def check_file(path: Path, content: Mapping[str, Any], name: str) -> None:
    """Raise PACK003 unless the file `name` of the pack has the hash that pack.json records."""
    try:
        right = commit.sha256(path / name) == content["files"][name]["sha256"]
        why = None if right else "its sha256 is another than the recorded one"
    except OSError as err:
        why = err.strerror or "it cannot be read"
    if why is not None:
        raise unequal(path, name, why)


def unequal(path: Path, name: str, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK003",
        f"{name} is not the file that pack.json was made for",
        where=str(path / name),
        why=why,
        next=shards.mend(path),
    )

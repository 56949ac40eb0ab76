"""Reading packs: a folder of codes that is verified before it is believed.

What is checked, and when: pack.json (its own checksum) and clips.parquet (sha256) on opening; a shard's size and header
when it is first touched; a clip's crc32 and the range of its codes when it is first read. `verify="quick"` touches all
shards at once, `verify="full"` hashes everything. `verify()` lists all damage instead of stopping at the first.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import clips as table
from partimento.tokens import shards
from partimento.tokens.clips import Clips
from partimento.tokens.shards import Shard
from partimento.tokens.spec import CodecSpec

FORMAT = "partimento pack"
SCHEMA_VERSION = 1
SPLITS = ("train", "valid")


def checksum(content: Mapping[str, Any]) -> str:
    """sha256 over all of pack.json but itself."""
    return _hash({name: value for name, value in content.items() if name != "checksum"})


def fingerprint(content: Mapping[str, Any]) -> str:
    """The identity of a pack's data: schema, codec, the shards' hashes and the essentials of its clip table."""
    return _hash(
        {
            "schema": content["schema"],
            "codec": content["codec"],
            "shards": sorted(shard["sha256"] for shard in content["shards"]),
            "clips": content["clips"],
        }
    )


def _hash(tree: Any) -> str:
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Pack:
    """An opened pack. Use `Pack.open`."""

    def __init__(self, path: Path, content: dict[str, Any], clips: Clips) -> None:
        self.path = path
        self.content = content
        """pack.json as it is."""
        self.spec = CodecSpec.from_json(content["codec"])
        self.fingerprint: str = content["fingerprint"]
        self.clips = clips
        self.shards = {int(Path(shard["file"]).stem): Shard(**shard) for shard in content["shards"]}
        self.totals: dict[str, Any] = content["totals"]
        self._mapped: dict[int, tuple[NDArray[np.uint16], NDArray[np.uint32]]] = {}
        self._seen = np.zeros(len(clips), dtype=bool)
        shard_starts = np.searchsorted(clips.shard, np.arange(clips.shard.max(initial=-1) + 1))
        self._place = np.arange(len(clips)) - shard_starts[clips.shard]  # number of a clip inside its shard

    @classmethod
    def open(cls, path: str | Path, verify: Literal["lazy", "quick", "full"] = "lazy") -> Pack:
        """Open the pack at `path`.

        Raises PACK001 (no pack there, or an encode that has not finished), PACK002 (pack.json changed or unreadable),
        PACK003 (clip table or rejects do not match), PACK004 to PACK006 (shards, see `read`).
        """
        path = Path(path)
        content = read_commit(path)
        _check_file(path, content, "clips.parquet")
        try:
            clips = table.read(path / "clips.parquet")
        except (pa.ArrowException, OSError) as err:
            raise _unequal(path, "clips.parquet", str(err)) from err
        pack = cls(path, content, clips)
        if verify != "lazy":
            damage = pack.damage(full=verify == "full")
            if damage:
                raise damage[0]
        return pack

    def read(self, clip: int, first: int = 0, last: int | None = None) -> NDArray[np.uint16]:
        """Codes [n, K] of frames first..last-1 of clip number `clip`, a read-only view of the file.

        The clip is verified whole when it is first read: PACK004 names shard and clip where its crc32 is not the
        recorded one, PACK005 a missing shard, PACK006 a code that its book does not have.
        """
        frames = int(self.clips.frames[clip])
        last = frames if last is None else last
        if not 0 <= first <= last <= frames:
            raise ValueError(f"frames {first}..{last} are outside of clip {clip}, which has {frames}")
        number = int(self.clips.shard[clip])
        if number not in self._mapped:
            self._mapped[number] = shards.open_shard(self.path, self.shards[number], self.spec.codebooks)
        codes, checks = self._mapped[number]
        start = int(self.clips.first_frame[clip])
        if not self._seen[clip]:
            self._verify_clip(clip, codes[start : start + frames], int(checks[self._place[clip]]))
            self._seen[clip] = True
        return codes[start + first : start + last]

    def split(self, name: str) -> NDArray[np.int64]:
        """Clip numbers of "train" or "valid"; PACK008 where the split is empty."""
        chosen = np.asarray([i for i, split in enumerate(self.clips.split) if split == name], dtype=np.int64)
        if not len(chosen):
            raise PartimentoError(
                "PACK008",
                f"the pack has no clips in its split {name!r}",
                where=str(self.path),
                why=f"it holds {self.totals['sources']} source(s); a held-out split needs two at least",
                next="encode more recordings, or give their sources in tags.jsonl",
            )
        return chosen

    @cached_property
    def tag_vocabulary(self) -> list[str]:
        """Tags of the train split, sorted: the columns of a multi-hot condition."""
        names = {
            tag
            for tags, split in zip(self.clips.tags, self.clips.split, strict=True)
            if split == "train"
            for tag in tags
        }
        return sorted(names)

    def clip_number(self, name: str) -> int:
        """The number of the clip of this name; PACK019 where there is none."""
        try:
            return self.clips.clip.index(name)
        except ValueError:
            raise PartimentoError(
                "PACK019",
                f"the pack has no clip {name!r}",
                where=str(self.path),
                next=f"partimento pack inspect {self.path}",
            ) from None

    def damage(self, *, full: bool = True) -> list[PartimentoError]:
        """Everything wrong with the pack's files, one error each: sizes and headers, and if `full` also all hashes."""
        found: list[PartimentoError] = []
        self._mapped.clear()
        for name in ("rejects.jsonl",) if full else ():
            _collect(found, lambda name=name: _check_file(self.path, self.content, name))
        if full and self.clips.essentials() != self.content["clips"]:
            found.append(_unequal(self.path, "clips.parquet", "its rows are not those that pack.json was made for"))
        by_shard: dict[int, list[int]] = {}
        for clip, number in enumerate(self.clips.shard):
            by_shard.setdefault(int(number), []).append(clip)
        for number, shard in self.shards.items():
            before = len(found)
            _collect(found, lambda shard=shard: shards.open_shard(self.path, shard, self.spec.codebooks))
            if not full or len(found) > before:
                continue
            self._seen[by_shard.get(number, [])] = False
            for clip in by_shard.get(number, []):
                _collect(found, lambda clip=clip: self.read(clip))
            if len(found) == before and commit.sha256(self.path / shard.file) != shard.sha256:
                found.append(shards.damaged(self.path, shard.file, "its sha256 is another than the recorded one"))
        return found

    def _verify_clip(self, clip: int, codes_TK: NDArray[np.uint16], check: int) -> None:
        file, name = self.shards[int(self.clips.shard[clip])].file, self.clips.clip[clip]
        if zlib.crc32(np.ascontiguousarray(codes_TK).tobytes()) != check:
            raise shards.damaged(self.path, file, "the crc32 of its codes is another than the recorded one", clip=name)
        shards.check_range(codes_TK, self.spec.cardinalities, where=f"{self.path / file}, clip {name}")


def read_commit(path: Path) -> dict[str, Any]:
    """pack.json, checked against its own checksum. Raises PACK001, PACK002."""
    try:
        text = (path / "pack.json").read_bytes()
    except OSError as err:
        begun = (path / "journal").is_dir()
        raise PartimentoError(
            "PACK001",
            f"{path} holds an encode that has not finished" if begun else f"{path} is not a pack",
            where=str(path / "pack.json"),
            why=err.strerror,
            next="run the same encode command again; it continues" if begun else "partimento encode SRC --to PACK",
        ) from err
    try:
        content = json.loads(text)
        intact = content["format"] == FORMAT and content["checksum"] == checksum(content)
        intact = intact and text == commit.record_bytes(content)  # the checksum cannot see a cut after the last brace
        schema = content["schema"]
    except (ValueError, KeyError, TypeError):
        intact, schema = False, None
    if intact and schema == SCHEMA_VERSION and content["fingerprint"] == fingerprint(content):
        return dict(content)
    raise PartimentoError(
        "PACK002",
        f"schema {schema} of this pack is not known" if intact else "pack.json was changed or damaged",
        where=str(path / "pack.json"),
        why=f"this version reads schema {SCHEMA_VERSION}" if intact else "its content does not match its checksum",
        next="run the encode command that made the pack again: it writes pack.json anew",
    )


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
    """Check a pack and list all that is wrong. Only a folder that is no pack raises (PACK001)."""
    path = Path(path)
    try:
        pack = Pack.open(path)
    except PartimentoError as err:
        if err.code == "PACK001":
            raise
        return Verification(str(path), None, full, 0, 0, [err.to_json()])
    damage = [err.to_json() for err in pack.damage(full=full)]
    return Verification(str(path), pack.fingerprint, full, len(pack.shards), len(pack.clips), damage)


def inspect(path: str | Path) -> dict[str, Any]:
    """What a pack says of itself, from pack.json alone."""
    content = read_commit(Path(path))
    return {"path": str(path), **{name: value for name, value in content.items() if name != "checksum"}}


def _check_file(path: Path, content: Mapping[str, Any], name: str) -> None:
    try:
        found = commit.sha256(path / name)
    except OSError as err:
        raise _unequal(path, name, err.strerror or "it cannot be read") from err
    if found != content["files"][name]["sha256"]:
        raise _unequal(path, name, "its sha256 is another than the recorded one")


def _unequal(path: Path, name: str, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK003",
        f"{name} is not the file that pack.json was made for",
        where=str(path / name),
        why=why,
        next=shards.mend(path),
    )


def _collect(found: list[PartimentoError], check: Any) -> None:
    try:
        check()
    except PartimentoError as err:
        found.append(err)

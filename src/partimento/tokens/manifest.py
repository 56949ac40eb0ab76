"""pack.json: the commit of a pack. It is read as a thing that may come from anywhere: nothing is believed, allocated or
opened because of it before all of it has been checked, also where its checksum is right."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens.clips import SPLITS
from partimento.tokens.shards import CODES, HEADER_BYTES, Shard
from partimento.tokens.spec import CodecSpec
from partimento.tokens.store import is_far

FORMAT = "partimento pack"
SCHEMA_VERSION = 2
MOST_BYTES = 2**28  # of pack.json: two million shards
MOST_BOOKS = 256
MOST_RATE = 2**22  # Hz
_SHARD = re.compile(r"shards/(\d{6,9})\.bin")
_TABLE = re.compile(r"clips(\.\d{6})?\.parquet")
_REJECTS = re.compile(r"rejects(\.\d{6})?\.jsonl")
_HASH = re.compile(r"[0-9a-f]{64}")


def checksum(content: Mapping[str, Any]) -> str:
    """sha256 over all of a JSON object but its own `checksum`."""
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


def read_commit(path: Path) -> dict[str, Any]:
    """pack.json of the pack at `path`, checked. Raises PACK001, PACK002, PACK040."""
    place = path / "pack.json"
    try:
        with commit.machine_errors(place), place.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as err:
        missing = isinstance(err, (FileNotFoundError, NotADirectoryError))
        begun = missing and (path / "journal").is_dir()
        message, help_ = f"{path} is not a pack", "partimento encode SRC --to PACK"
        if begun:
            message, help_ = f"{path} holds an encode that has not finished", "run the same encode command again"
        elif not missing:
            message, help_ = f"the pack {path} cannot be read", f"ls -l {place}"
        raise PartimentoError(
            "PACK001", message, where=str(place), why=err.strerror, next=help_, missing=missing
        ) from err
    return parse_commit(raw, str(place))


def parse_commit(raw: bytes, where: str) -> dict[str, Any]:
    """The content of a pack.json. Raises PACK002 (changed, damaged, of another schema), PACK040 (whole, but it says
    what no pack can hold)."""
    try:
        content: dict[str, Any] = json.loads(raw) if len(raw) <= MOST_BYTES else {}
        intact = content["format"] == FORMAT and content["checksum"] == checksum(content)
        intact = intact and raw == commit.record_bytes(content)  # the checksum cannot see a cut after the last brace
        schema = content["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        intact, schema = False, None
    if not intact:
        raise PartimentoError(
            "PACK002",
            "pack.json was changed or damaged",
            where=where,
            why="its content does not match its checksum",
            next="run the encode command that made the pack again: it writes pack.json anew",
        )
    if type(schema) is not int or schema != SCHEMA_VERSION:
        older = type(schema) is int and schema < SCHEMA_VERSION
        raise PartimentoError(
            "PACK002",
            f"the pack has schema {schema!r}, and this version reads schema {SCHEMA_VERSION}",
            where=where,
            why="it was made by an older partimento" if older else "it was made by another version of partimento",
            next="run the encode command that made the pack again, into a new folder" if older else "update partimento",
        )
    problem = _problem(content)
    if problem is not None:
        raise PartimentoError(
            "PACK040",
            "pack.json says what no pack can hold",
            where=where,
            why=problem,
            next="do not use this pack; get it again from where it came from, or encode the recordings",
        )
    if content["fingerprint"] != fingerprint(content):
        raise PartimentoError(
            "PACK002",
            "pack.json was changed or damaged",
            where=where,
            why="its fingerprint is not that of its content",
            next="run the encode command that made the pack again: it writes pack.json anew",
        )
    return dict(content)


def table_of(content: Mapping[str, Any]) -> str:
    """The name of the clip table's file: clips.parquet, or clips.000001.parquet after an edit."""
    return next(name for name in content["files"] if _TABLE.fullmatch(name))


def rejects_of(content: Mapping[str, Any]) -> str:
    """The name of the file that lists what is not in the pack."""
    return next(name for name in content["files"] if _REJECTS.fullmatch(name))


def records_of(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The records of the edits: file in the pack -> {bytes, sha256}. A copy of the pack has them too."""
    edits = [entry for entry in content["history"] if entry["edit"] is not None]
    return {f"edits/{entry['edit']}.json": entry["record"] for entry in edits}


def is_table(name: str) -> bool:
    """Whether a file of this name in a pack is a clip table or a list of rejects, of this commit or an earlier one."""
    return bool(_TABLE.fullmatch(name) or _REJECTS.fullmatch(name))


def shard_number(file: str) -> int:
    return int(Path(file).stem)


def inspect(path: str | Path) -> dict[str, Any]:
    """What a pack, in a folder or at a URL, says of itself, by its pack.json. Raises PACK001, PACK002, FAR001-5."""
    if is_far(path):
        from partimento.tokens import far

        content = far.read_commit(path)
    else:
        content = read_commit(Path(path))
    return {"path": str(path), **{name: value for name, value in content.items() if name != "checksum"}}


def _problem(content: Mapping[str, Any]) -> str | None:
    """What is wrong with the content of a pack.json whose checksum is right; None if nothing is."""
    try:
        spec = CodecSpec.from_json(content["codec"])
        _check_codec(spec)
        frames = _check_shards(content["shards"], spec.codebooks)
        _check_files(content["files"])
        _check(_is_hash(content["clips"]) and _is_hash(content["fingerprint"]), "a hash is not a sha256")
        totals = content["totals"]
        _check_totals(totals)
        _check(_whole(totals["bytes"]) and isinstance(totals["rejects"], dict), "its totals are not numbers")
        for code, count in totals["rejects"].items():
            _check(isinstance(code, str) and _whole(count), "its counts of rejects are not numbers")
        _check(totals["frames"] == frames, "its total of frames is not that of its shards")
        clips = sum(shard["clips"] for shard in content["shards"])
        _check(totals["clips"] == clips, "its total of clips is not that of its shards")
        _check(set(content["splits"]) == set(SPLITS), "its splits are not train and valid")
        for split in content["splits"].values():
            _check_totals(split)
        for name in ("versions", "inputs"):
            _check(isinstance(content[name], dict), f"{name} is no object")
        _check_history(content["history"])
    except KeyError as err:
        return f"it lacks {err}"
    except (ValueError, TypeError, AttributeError, ArithmeticError) as err:
        return str(err) or type(err).__name__
    return None


def _check(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(problem)


def _whole(value: Any, most: int = 2**53) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _check_codec(spec: CodecSpec) -> None:
    texts = (spec.codec, spec.weights, spec.layout)
    _check(all(isinstance(text, str) for text in texts), "the codec's name, weights and layout are not text")
    _check(spec.codebooks <= MOST_BOOKS, f"its codec has {spec.codebooks} codebooks")
    _check(all(_whole(v) for v in spec.cardinalities), "a cardinality is not a whole number")
    _check(_whole(spec.sample_rate, MOST_RATE), f"its sample rate is {spec.sample_rate}")
    _check(1e-3 <= spec.frame_rate <= spec.sample_rate, f"its frame rate is {spec.frame_rate}")


def _check_shards(rows: Any, codebooks: int) -> int:
    """The frames of all shards."""
    _check(isinstance(rows, list), "its shards are no list")
    last, frames = -1, 0
    for row in rows:
        shard = Shard(**row)
        match = _SHARD.fullmatch(shard.file) if isinstance(shard.file, str) else None
        if match is None:
            raise ValueError(f"a shard is called {shard.file!r}")
        _check(int(match[1]) > last, f"{shard.file} is listed twice, or out of order")
        _check(all(map(_whole, (shard.bytes, shard.frames, shard.clips))), f"{shard.file} has counts that are none")
        _check(
            shard.bytes == HEADER_BYTES + shard.frames * codebooks * CODES.itemsize + 4 * shard.clips,
            f"the size of {shard.file} does not follow from its frames and clips",
        )
        _check(_is_hash(shard.sha256), f"the hash of {shard.file} is no sha256")
        last, frames = int(match[1]), frames + shard.frames
    return frames


def _check_files(files: Mapping[str, Any]) -> None:
    found = [name for name in files if _TABLE.fullmatch(name)], [name for name in files if _REJECTS.fullmatch(name)]
    _check([len(found[0]), len(found[1]), len(files)] == [1, 1, 2], "its files are not a clip table and a reject list")
    for facts in files.values():
        _check_facts(facts)


def _check_facts(facts: Mapping[str, Any]) -> None:
    _check(set(facts) == {"bytes", "sha256"}, "what it says of its files is not their size and hash")
    _check(_whole(facts["bytes"]) and _is_hash(facts["sha256"]), "a file's size or hash is none")


def _check_totals(totals: Mapping[str, Any]) -> None:
    _check(all(_whole(totals[name]) for name in ("clips", "sources", "frames")), "its totals are not numbers")
    seconds = totals["seconds"]
    _check(isinstance(seconds, (int, float)) and 0 <= seconds < 2**53, "its total of seconds is none")


def _check_history(history: Any) -> None:
    _check(isinstance(history, list), "its history is no list")
    for entry in history:
        _check(isinstance(entry["what"], str), "an entry of its history does not say what was done")
        _check(all(_is_hash(entry[name]) for name in ("was", "fingerprint", "clips_sha256")), "a hash is not a sha256")
        if entry["edit"] is not None:
            _check(re.fullmatch(r"\d{6}", entry["edit"]) is not None, "an edit has no number")
            _check_facts(entry["record"])

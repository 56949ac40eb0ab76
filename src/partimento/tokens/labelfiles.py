"""Labels as they stand in files: JSON lines, JSON objects of three programs, and prompts; all bounded and checked.

Whatever is malformed is one error, PACK013, that names the file and the line.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging

LONGEST_LINE = 2**20  # bytes of a line of JSON
LARGEST_TEXT = 2**20  # bytes of a prompt or of the JSON beside one recording
LARGEST_TABLE = 2**32  # bytes of a table of JSON lines, unpacked
MOST_EXPANSION = 100  # labels compress some 30 times; what unpacks to more, and to more than a spare, is a bomb
_SPARE = 2**26

FIELDS = ("tags", "caption", "licence", "source", "origin")
# audiocraft's keys whose words are tags (audiocraft/data/music_dataset.py, MusicInfo).
_WORDS = ("genre", "keywords", "moods", "instrument")
_OTHERS = {"caption": ("caption", "description", "prompt"), "licence": ("licence", "license"), "source": ("source",)}
_CREDITS = ("artist", "album", "title")


def lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) for each line of a .jsonl or .jsonl.gz that is not blank, in constant memory. Raises PACK013."""
    done = number = 0
    try:
        with open(path, "rb", opener=commit.regular) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            while line := stream.readline(LONGEST_LINE + 1):
                number, done = number + 1, done + len(line)
                where = f"{path}, line {number}"
                if len(line) > LONGEST_LINE:
                    raise unreadable(where, f"the line is longer than {LONGEST_LINE >> 20} MiB")
                if done > LARGEST_TABLE or (packed and done > _SPARE + MOST_EXPANSION * raw.tell()):
                    raise unreadable(where, "it unpacks to more than any table of labels does")
                if line.strip():
                    yield where, json_object(_decoded(line, where), where)
    except (OSError, EOFError, zlib.error) as err:
        raise unreadable(f"{path}, after line {number}", str(err)) from err


def text(path: Path, most: int = LARGEST_TEXT) -> str:
    """The text of a small file. Raises PACK013 (also where it has more than `most` bytes)."""
    try:
        with open(path, "rb", opener=commit.regular) as stream:
            raw = stream.read(most + 1)
    except OSError as err:
        raise unreadable(str(path), err.strerror or str(err)) from err
    if len(raw) > most:
        raise unreadable(str(path), f"it is longer than {most >> 10} KiB")
    return _decoded(raw, str(path))


def json_object(content: str, where: str) -> dict[str, Any]:
    """One JSON object. Raises PACK013."""
    row = json_value(content, where)
    if not isinstance(row, dict):
        raise unreadable(where, "it is not a JSON object")
    return row


def json_value(content: str, where: str) -> Any:
    """Any JSON. Raises PACK013."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as err:
        raise unreadable(where, str(err)) from err


def labels_of(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The labels in an object of ours, of audiocraft's (the .json beside a recording) or of stable-audio's.

    {"tags": list, "caption", "licence", "source", "origin": strings}, only what is there. Without "tags", they come
    from genre, keywords, moods, instrument (at commas), bpm ("120 bpm") and key. A description or prompt is the
    caption. Artist, album and title are where a recording comes from (`origin`), not what it sounds like, so they are
    no prompt. Keys that are not known are other programs' business. Raises PACK013 for a value of the wrong kind.
    """
    found: dict[str, Any] = {}
    if row.get("tags") is not None:
        found["tags"] = _words(row, "tags", where)
    else:
        words = [word for key in _WORDS for word in _words(row, key, where)]
        words += [f"{_number(row['bpm'], where):g} bpm"] if row.get("bpm") not in (None, "") else []
        words += [word] if (word := _string(row, "key", where)) else []
        if words := list(tagging.clean(words)):
            found["tags"] = words
    for name, keys in _OTHERS.items():
        values = [value for key in keys if (value := _string(row, key, where))]
        if values:
            found[name] = values[0]
    credit = " - ".join(value for key in _CREDITS if (value := _string(row, key, where)))
    origin = _string(row, "origin", where) or credit
    if origin:
        found["origin"] = origin
    if "tags" in found:
        found["tags"] = [sys.intern(tag) for tag in tagging.clean(found["tags"])]
    return found


def prompt_places(path: Path) -> list[Path]:
    """Where the prompt of a recording (or of its codes in .pt or .npq) may lie, in the order of looking."""
    folder, stem = path.parent, path.stem
    return [
        folder / f"{stem}.txt",
        folder / f"{stem}_prompt.txt",
        folder / "prompts" / f"{stem}.txt",
        folder / "prompts" / f"{stem}_prompt.txt",
        folder.parent / "audio_prompts" / f"{stem}_prompt.txt",
    ]


def prompt(path: Path) -> dict[str, Any]:
    """The labels of a prompt: its tags, separated by commas or lines, and as caption its words as they are. {} for a
    prompt without a word. Raises PACK013."""
    content = text(path).strip()
    tags = tagging.clean(content.replace("\n", ",").split(","))
    return {"tags": list(tags), "caption": content} if tags else {}


def _words(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = row.get(key)
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split(",")
    if not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
        raise unreadable(where, f'"{key}" must be a list of strings')
    return [_sound(word, key, where) for word in value]


def _string(row: Mapping[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise unreadable(where, f'"{key}" must be a string')
    return _sound(value, key, where).strip() or None if value else None


def _number(value: Any, where: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 < number < 10_000:
        raise unreadable(where, '"bpm" must be a number of beats per minute')
    return number


def _sound(value: str, key: str, where: str) -> str:
    if not is_text(value):
        raise unreadable(where, f'"{key}" holds half a character')
    return value


def is_text(value: str) -> bool:
    """Whether a table of strings can keep it: JSON can hold halves of characters, and so do file names and arguments
    of a command that are not UTF-8."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise unreadable(where, str(err)) from err


def unreadable(where: str, why: str) -> PartimentoError:
    return PartimentoError(
        "PACK013", "the tags cannot be read", where=where, why=why, next="mend or remove that line or file"
    )

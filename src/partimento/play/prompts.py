"""Prompts from a file, one a line: `tags | text`, or JSON {"tags": [...], "text": "..."}."""

from __future__ import annotations

import json
from pathlib import Path

from partimento import commit
from partimento.errors import PartimentoError
from partimento.tokens import tags as tagging
from partimento.tokens.text import Words

MOST_BYTES = 16 * 2**20


def read_prompts(path: Path) -> tuple[Words, ...]:
    """The prompts of a UTF-8 file in its order, each once. Lines of white space are passed over; a bar alone is the
    null condition. Raises SAMPLE031, naming the line."""
    path = Path(path)
    try:
        with open(path, "rb", opener=commit.regular) as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as err:
        raise _unreadable(str(path), err.strerror or str(err)) from err
    if len(raw) > MOST_BYTES:
        raise _unreadable(str(path), f"it is longer than {MOST_BYTES >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise _unreadable(f"{path}:{line}", f"it is not UTF-8 (byte {raw[err.start]:#04x})") from err
    found = [_prompt(line, f"{path}:{number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found:
        raise _unreadable(str(path), "it holds no prompt")
    return tuple(dict.fromkeys(found))


def _prompt(line: str, where: str) -> Words:
    if not line.lstrip().startswith("{"):
        return Words.parse(line)
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise _unreadable(where, f"it begins like JSON and is none: {err}") from err
    tags, text = tree.get("tags", []), tree.get("text", "")
    if not set(tree) <= {"tags", "text"} or not isinstance(text, str) or not isinstance(tags, list):
        raise _unreadable(where, 'a prompt in JSON is {"tags": [names], "text": "words"}, either left out at will')
    if not all(isinstance(tag, str) for tag in tags):
        raise _unreadable(where, "a tag is not a string")
    return Words(tagging.clean(tags), text.strip())


def _unreadable(where: str, why: str) -> PartimentoError:
    return PartimentoError(
        "SAMPLE031",
        "the prompts cannot be read",
        where=where,
        why=why,
        next='write UTF-8 text, one prompt a line: techno, A minor | a dark pulse   or   {"tags": ["techno"]}',
    )

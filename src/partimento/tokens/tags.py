"""Tags: clean names, aliases, what survives in training, and rows of a multi-hot condition. A tag is matched whole."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partimento import commit, keyed
from partimento.errors import PartimentoError

MOST_ALIAS_BYTES = 16 * 2**20


def clean(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags without outer and doubled blanks, without empty ones and repetitions, in their order. Case is kept
    ("B major", "b minor")."""
    return tuple(dict.fromkeys(name for tag in tags if (name := " ".join(tag.split()))))


def augment(
    tags: Sequence[str], *parts: int | str, dropout: float = 0.0, shuffle: bool = False, limit: int | None = None
) -> tuple[str, ...]:
    """What is left of an item's tags in training: each dropped with probability `dropout`, the others shuffled, then
    the first `limit` kept. A function of the tags and of the key `parts`, nothing else.

    Whether a tag is dropped does not depend on the tags beside it, and the shuffled order not on the order given.
    """
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be 0 to 1, not {dropout}")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")
    kept = [tag for tag in tags if keyed.uniform("tag", *parts, tag) >= dropout] if dropout else list(tags)
    if shuffle:
        kept.sort(key=lambda tag: (keyed.key("tag order", *parts, tag), tag))
    return tuple(kept[:limit])


def read_aliases(path: Path) -> dict[str, str]:
    """The table [aliases] of a TOML file: tag -> the tag to use instead, both cleaned.

    >>> [aliases]
    >>> "voice" = "vocals"

    Raises TAGS001: unreadable, another form, an empty name, two targets of one tag, or a chain (a = "b", b = "c") or
    cycle, since then one cannot say what a tag becomes.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=commit.regular) as stream:
            raw = stream.read(MOST_ALIAS_BYTES + 1)
        if len(raw) > MOST_ALIAS_BYTES:
            raise _alias_error(path, f"it is longer than {MOST_ALIAS_BYTES >> 20} MiB")
        content = tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as err:
        raise _alias_error(path, err.strerror or str(err)) from err
    except (ValueError, RecursionError) as err:
        raise _alias_error(path, str(err)) from err
    table = content.get("aliases")
    if not isinstance(table, dict) or set(content) != {"aliases"}:
        raise _alias_error(path, "it must hold one table, [aliases], and nothing else")
    aliases: dict[str, str] = {}
    for given, target in table.items():
        if not isinstance(target, str):
            raise _alias_error(path, f"the alias of {given!r} is not a string")
        name, other = " ".join(given.split()), " ".join(target.split())
        if not name or not other:
            raise _alias_error(path, f"an empty tag in {given!r} = {target!r}")
        if aliases.setdefault(name, other) != other:
            raise _alias_error(path, f"{name!r} has two aliases, {aliases[name]!r} and {other!r}")
    for name, other in aliases.items():
        if other == name or aliases.get(other) == name:
            raise _alias_error(path, f"{name!r} = {other!r} is a cycle")
        if other in aliases:
            raise _alias_error(path, f"{name!r} = {other!r} = {aliases[other]!r} is a chain: name the last one")
    return aliases


def apply_aliases(tags: Iterable[str], aliases: Mapping[str, str]) -> tuple[str, ...]:
    """`clean(tags)`, each that has an alias replaced by it; what becomes equal is kept once, at its first place."""
    return tuple(dict.fromkeys(aliases.get(tag, tag) for tag in clean(tags)))


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` of `known` that `name` may have been meant to be: alike in spelling, or containing it."""
    known = list(known)
    lowered = {tag.lower(): tag for tag in reversed(known)}
    near = [lowered[found] for found in difflib.get_close_matches(name.lower(), lowered, n=n, cutoff=0.5)]
    contained = [tag for tag in known if name.lower() in tag.lower()]
    return list(dict.fromkeys(near + contained))[:n]


def multi_hot(tags: Iterable[str], vocabulary: Sequence[str]) -> NDArray[np.float32]:
    """[G] float32 of 0 and 1. Tags outside of the vocabulary (of held-out clips) have no column and are left out."""
    known = {name: column for column, name in enumerate(vocabulary)}
    row_G = np.zeros(len(vocabulary), dtype=np.float32)
    for tag in tags:
        if tag in known:
            row_G[known[tag]] = 1
    return row_G


def require(tags: Iterable[str], vocabulary: Sequence[str]) -> tuple[str, ...]:
    """`clean(tags)`, all of which the vocabulary has. Raises TOKEN003, with the nearest names, where it has not."""
    names = clean(tags)
    for name in names:
        if name in vocabulary:
            continue
        hint = nearest(name, vocabulary)
        raise PartimentoError(
            "TOKEN003",
            f"unknown tag {name!r}" + (f"; did you mean {' or '.join(map(repr, hint))}?" if hint else ""),
            why=f"the model was trained with {len(vocabulary)} tags"
            if vocabulary
            else "the model was trained without tags",
            next=f"choose from: {', '.join(vocabulary[:20])}" + (", ..." if len(vocabulary) > 20 else "")
            if vocabulary
            else "leave the tags out",
        )
    return names


def _alias_error(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "TAGS001",
        "the aliases cannot be used",
        where=str(path),
        why=why,
        next='write one table: [aliases], then lines such as "voice" = "vocals"',
    )

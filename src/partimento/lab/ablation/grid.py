"""The grid of an ablation: what varies, and the runs that follow from it, each with its whole configuration."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.config import Config, load, parse
from partimento.errors import PartimentoError

LONGEST = 60  # of the part of a name that tells the change


@dataclass(frozen=True)
class Planned:
    """A run of the grid: `changes` by dotted keys, and its name, by which it is found again."""

    name: str
    changes: dict[str, Any]
    seed: int
    config: Config


def varied(text: str) -> tuple[str, list[Any]]:
    """ "section.key=a,b,c" as key and values, each a TOML literal, or a word; `null` is no value. Raises LAB074."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", key):
        raise _unreadable(text, "it has the form section.key=a,b,c")
    values = [_value(part.strip()) for part in _split(raw, text)]
    told = [json.dumps(value) for value in values]
    if len(set(told)) < len(told):
        raise _unreadable(text, "a value stands there twice")
    return key, values


def grid(
    path: str | Path, vary: Sequence[str], seeds: Sequence[int], changes: Sequence[str], budget: Mapping[str, Any]
) -> list[Planned]:
    """The runs, seed by seed, so that whole comparisons are ready early.

    Raises LAB074 (a change that cannot be read, or names a key twice or the seed), and what `load` raises for the
    configuration of any cell.
    """
    tree = load(path, changes).model_dump(mode="json")
    found = [varied(text) for text in vary]
    keys = [key for key, _ in found]
    for key in keys:
        if key == "train.seed":
            raise _unreadable(key, "seeds are chosen by --seeds")
        if keys.count(key) > 1:
            raise _unreadable(key, "it is varied twice; give all its values at once")
    short = [key.rpartition(".")[2] for key in keys]
    names = [key.replace(".", "-") if short.count(end) > 1 else end for key, end in zip(keys, short, strict=True)]
    made = []
    for seed in seeds:
        for values in itertools.product(*(values for _, values in found)):
            cell = dict(zip(keys, values, strict=True))
            own = copy.deepcopy(tree)
            for key, value in {**budget, **cell, "train.seed": seed}.items():
                _lay(own, key, value)
            told = "_".join(f"{name}-{_slug(value)}" for name, value in zip(names, values, strict=True))
            name = f"{_cut(told) or 'as-it-is'}_seed-{seed}"
            config = parse(own, name=f"{path} with {', '.join(f'{key}={value}' for key, value in cell.items())}")
            made.append(Planned(name, cell, seed, config))
    return _apart(made)


def budget_of(text: str | None) -> dict[str, Any]:
    """ "400" or "400steps", or "30min": settings of [train]. Raises LAB075."""
    if text is None:
        return {}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match and match[2] in ("", "step", "steps") and match[1].isdecimal() and int(match[1]) > 0:
        return {"train.steps": int(match[1])}
    if match and match[2] in ("m", "min", "minute", "minutes") and float(match[1]) > 0:
        return {"train.max_minutes": float(match[1])}
    raise PartimentoError(
        "LAB075", f"{text!r} is no budget", why="it is a number of steps, or of minutes", next="--budget 2000, or 30min"
    )


def _lay(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise _unreadable(key, f"{section!r} is a value, not a section")
    tree[last] = value


def _split(raw: str, text: str) -> list[str]:
    """At commas that are within no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in raw:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    if depth or quote or not all(part.strip() for part in parts):
        raise _unreadable(text, "a bracket or a quote is not closed, or a value is missing")
    return parts


def _value(raw: str) -> Any:
    if raw == "null":
        return None
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _slug(value: Any) -> str:
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.+]+", "-", text).strip("-.").replace("+", "") or "empty"


def _cut(text: str) -> str:
    """A name of some length, which stays unlike any other."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _apart(made: list[Planned]) -> list[Planned]:
    """Names that came out alike get a hash of their change."""
    names = [one.name for one in made]
    found = []
    for one in made:
        if names.count(one.name) > 1:
            digest = hashlib.sha256(json.dumps(one.changes, sort_keys=True).encode()).hexdigest()[:8]
            head, _, tail = one.name.rpartition("_seed-")
            one = Planned(f"{head}-{digest}_seed-{tail}", one.changes, one.seed, one.config)
        found.append(one)
    return found


def _unreadable(text: str, why: str) -> PartimentoError:
    return PartimentoError(
        "LAB074", f"cannot vary {text!r}", why=why, next="--vary 'model.pattern=delay,parallel,[0, 0, 1]'"
    )

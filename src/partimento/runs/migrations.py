"""What older checkpoints are turned into when they are read, so that no reader knows but the newest form.

A schema is a number in `state.json` (and `manifest.json`). MIGRATIONS[n] says how a checkpoint of schema n becomes one
of schema n + 1: which keys of the state change, and which tensors have other names. Files are never changed: they keep
their hashes, and the version that wrote them can still read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from partimento.errors import PartimentoError

SCHEMA = 3
State = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Migration:
    """From one schema to the next."""

    state: Callable[[State], State]
    parts: tuple[str, ...] = ()
    """Parts that are new; an older checkpoint has them empty, and what they remember begins anew."""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """{family: {regular expression at the beginning of a tensor's name: replacement}}; the first that matches counts.

    It holds for every part: moments are called after their weights (`NAME.exp_avg`).
    """


def _engine(state: State) -> State:
    """1 to 2: all figures of a validation are kept, not only the score; the guard has a memory of its own (the part
    "guard"), which the two numbers that it had in the state are no substitute for."""
    kept = {name: value for name, value in state.items() if name not in ("window", "skipped_in_a_row")}
    score = state.get("score")
    return {
        **kept,
        "figures": {} if score is None else {state.get("score_name", "score"): score},
        "good": state.get("skipped_in_a_row", 0) == 0,
        **{name: [] for name in ("losses", "validations", "rollbacks")},
        "trained": {},
    }


def _alarms(state: State) -> State:
    """2 to 3: what the alarms remember of the readings; it begins anew."""
    return {**state, "alarms": {}}


MIGRATIONS: dict[int, Migration] = {1: Migration(state=_engine, parts=("guard",)), 2: Migration(state=_alarms)}


def schema_of(record: Mapping[str, Any], where: str) -> int:
    """The schema that a state or manifest was written with. Raises CKPT011 if this version does not know it yet, and
    ValueError if it is no schema at all."""
    schema = record.get("schema", 1)
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise ValueError(f"schema {schema!r} is none")
    if schema > SCHEMA:
        version = record.get("partimento", "a newer version")
        raise PartimentoError(
            "CKPT011",
            f"the checkpoint was written by a newer partimento ({version})",
            where=where,
            why=f"its schema is {schema}, and this version knows schemas up to {SCHEMA}",
            next=f"install partimento {version}, or use a checkpoint of an older version",
        )
    return schema


def migrate_state(state: State, schema: int) -> State:
    """`state` of `schema`, as the newest schema has it."""
    for number in range(schema, SCHEMA):
        state = MIGRATIONS[number].state(state)
    return {**state, "schema": SCHEMA}


def new_parts(schema: int) -> list[str]:
    """Parts that checkpoints of `schema` do not have, and those of the newest one do."""
    return [part for number in range(schema, SCHEMA) for part in MIGRATIONS[number].parts]


def renamed(family: str | None, schema: int, name: str) -> str:
    """The name that a tensor of `schema` has in the newest one."""
    for number in range(schema, SCHEMA):
        for pattern, replacement in MIGRATIONS[number].names.get(family or "", {}).items():
            new, count = re.subn(rf"\A(?:{pattern})", replacement, name, count=1)
            if count:
                name = new
                break
    return name


def migrate_tensors(family: str | None, schema: int, named: Mapping[str, T]) -> dict[str, T]:
    """The same tensors under their newest names. Raises ValueError where two would get one name."""
    found: dict[str, T] = {}
    for old, tensor in named.items():
        new = renamed(family, schema, old)
        if new in found:
            raise ValueError(f"two tensors would be called {new}")
        found[new] = tensor
    return found

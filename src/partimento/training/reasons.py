"""Why a trained parameter has no gradient yet, for a good reason: the task's, a zero behind it, or rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from partimento.training.muon import local
from partimento.training.reach import Reached, Unit
from partimento.training.task import Total, alone


@dataclass
class Found:
    """What one pass says of one side. `waiting` are those that have no gradient for a reason; of tables, `rows` are
    [rows with a gradient, rows]. Without a reason: nothing depends on `without`, `zero` gets nothing but zeros."""

    waiting: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)


@torch.no_grad()
def zeros(named: Mapping[str, Tensor], total: Total = alone) -> set[str]:
    """Names of the tensors that are zero everywhere, on all ranks."""
    if not named:
        return set()
    counts = total(torch.stack([local(tensor).ne(0).any() for tensor in named.values()]).float()).tolist()
    return {name for name, count in zip(named, counts, strict=True) if not count}


def explained(
    wanted: Sequence[Unit], reached: Mapping[str, Reached], reasons: Mapping[str, str], asleep: set[str]
) -> Found:
    """Why units have no gradient: the task says so (`reasons`, by names of parameters), what comes after them begins at
    zero (`asleep`, itself with a gradient), or a table has no row that a batch named."""
    found = Found()
    # A bias of zeros only adds, and is in nobody's way.
    awake_soon = [u.claim.name for u in wanted if u.claim.name in asleep and reached[u.label].any]
    awake_soon = [name for name in awake_soon if not name.endswith("bias")]
    for unit in wanted:
        now, name = reached[unit.label], unit.claim.name
        if now.any:
            if unit.table and now.rows < now.of:
                found.rows[unit.label] = [now.rows, now.of]
        elif name in reasons:
            found.waiting[unit.label] = reasons[name]
        elif now.there and awake_soon:
            nearest = max(awake_soon, key=lambda other: kinship(name, other))
            found.waiting[unit.label] = f"{nearest} begins at zero"
        elif now.there and unit.table:
            found.waiting[unit.label] = "no item of the first batches names a row of it"
        else:
            (found.zero if now.there else found.without).append(unit.label)
    return found


def kinship(one: str, other: str) -> tuple[int, bool, int]:
    """How near two parameters are, by their names: steps of the path that they share, the same last name, letters."""
    mine, theirs = one.split("."), other.split(".")
    return _alike(mine, theirs), mine[-1] == theirs[-1], _alike(one, other)


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many members at the beginning are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))

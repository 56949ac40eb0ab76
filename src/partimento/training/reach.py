"""Which trained parameters a backward pass reached: of fused matrices each part, of tables how many rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from partimento.training.groups import Claim
from partimento.training.muon import local
from partimento.training.task import Total, alone

PARTS = {"qkv": ("queries", "keys", "values"), "key_value": ("keys", "values")}
TABLES = ("embed", "table")
"""What the names of tables have in them: rows that no item of a batch names get no gradient from it."""


@dataclass(frozen=True)
class Unit:
    """A trained parameter, or one of the matrices that are fused in it (`rows`)."""

    label: str
    claim: Claim
    rows: slice | None = None

    @property
    def table(self) -> bool:
        return self.claim.parameter.ndim > 1 and any(word in self.claim.name.lower() for word in TABLES)

    def of(self, tensor: Tensor) -> Tensor:
        """Its rows of a tensor that is like the parameter (this rank's part)."""
        return local(tensor) if self.rows is None else local(tensor)[self.rows]


@dataclass(frozen=True)
class Reached:
    """Of one unit: whether it had a gradient at all, whether that was anywhere not zero; and the rows where, of how
    many (of all ranks, where it is sharded)."""

    there: bool
    any: bool
    rows: int
    of: int

    def and_before(self, was: Reached) -> Reached:
        """What this pass and an earlier one reached."""
        return Reached(self.there or was.there, self.any or was.any, max(self.rows, was.rows), self.of)


NEVER = Reached(False, False, 0, 0)


def units(claims: Iterable[Claim], who: str = "") -> list[Unit]:
    """In the order of the claims; `who` begins the labels. Sharded parameters are taken whole: a rank's rows are not
    those of the parts."""
    found = []
    for claim in claims:
        fused = claim.parameter.ndim == 2 and len(claim.parts) in (2, 3)
        if not fused or isinstance(claim.parameter, DTensor):
            found.append(Unit(who + claim.name, claim))
            continue
        kind = claim.name.removesuffix(".weight").rpartition(".")[2]
        names = PARTS.get(kind, ())
        first = 0
        for number, rows in enumerate(claim.parts):
            named = names[number] if len(names) == len(claim.parts) else f"part {number + 1} of {len(claim.parts)}"
            found.append(Unit(f"{who}{claim.name} ({named})", claim, slice(first, first + rows)))
            first += rows
    return found


@torch.no_grad()
def read(wanted: Sequence[Unit], tensors: Mapping[str, Tensor | None], total: Total = alone) -> list[Reached]:
    """Of tensors by the names of parameters (gradients, moments), None where there is none. `total` sums over the
    ranks. The device is waited for once."""
    if not wanted:
        return []
    rows = []
    for unit in wanted:
        tensor, size = tensors[unit.claim.name], unit.of(unit.claim.parameter)
        many = len(size) if size.ndim > 1 else 1
        reached = torch.zeros((), device=size.device)
        if tensor is not None:
            part = unit.of(tensor)
            reached = (part.flatten(1).ne(0).any(1).sum() if part.ndim > 1 else part.ne(0).any()).float()
        there = torch.full_like(reached, float(tensor is not None))
        rows.append(torch.stack((there, reached, torch.full_like(reached, float(many)))))
    return [Reached(there > 0, any_ > 0, int(any_), int(of)) for there, any_, of in total(torch.stack(rows)).tolist()]

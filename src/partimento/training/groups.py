"""Which optimizer trains which parameter: every trainable one is claimed exactly once, by name, and can be printed.

`optim.groups` come first (the first pattern found in a name claims it, as in torchtitan), then the built-in rule:
Muon takes the hidden matrices if it is the run's optimizer, AdamW everything else; only matrices decay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from partimento.config import Group, Optim
from partimento.errors import PartimentoError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Claim:
    """One parameter and how it is trained. `rate` is the peak rate. `parts` are the rows of each matrix that lies in
    it (several where matrices are fused, none where Muon cannot take it)."""

    name: str
    parameter: Tensor
    group: str
    optimizer: str
    rate: float
    weight_decay: float
    parts: tuple[int, ...]


@dataclass(frozen=True)
class _Nature:
    """What a parameter is: `table` if its rows are looked up or it scales (decay would pull it to zero without making
    the function smoother), `head` if its output is logits, `parts` as in Claim."""

    table: bool
    head: bool
    parts: tuple[int, ...]


def claim(module: nn.Module, optim: Optim) -> list[Claim]:
    """A claim for each trainable parameter, in the order of their names; a tied one has one, under its first name.

    Raises TRAIN010 (a pattern that is none, or that claims nothing), TRAIN011 (Muon was given what is not a matrix),
    TRAIN012 (a parameter that no optimizer takes: it is not float32 or float64).
    """
    natures = _natures(module)
    patterns = [_compiled(group.pattern, number) for number, group in enumerate(optim.groups)]
    found: list[Claim] = []
    claimed: set[int] = set()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dtype not in (torch.float32, torch.float64):
            raise _unclaimed(name, parameter)
        number = next((i for i, pattern in enumerate(patterns) if pattern.search(name)), None)
        if number is None:
            found.append(_by_nature(name, parameter, natures[parameter], optim))
        else:
            claimed.add(number)
            found.append(_by_pattern(name, parameter, natures[parameter], optim, optim.groups[number]))
    for number, group in enumerate(optim.groups):
        if number not in claimed:
            raise _pattern(group.pattern, number, "no trainable parameter is left for it", found)
    return found


def table(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """Rows for printing, one a group: {"group", "optimizer", "tensors", "parameters", "rate" (peak), "weight_decay",
    "names" (the first few)}. Works on a module that lies on the meta device too."""
    rows: dict[tuple[Any, ...], list[Claim]] = {}
    for one in claims:
        rows.setdefault((one.group, one.optimizer, one.rate, one.weight_decay), []).append(one)
    return [
        {
            "group": group,
            "optimizer": optimizer,
            "tensors": len(members),
            "parameters": sum(member.parameter.numel() for member in members),
            "rate": rate,
            "weight_decay": decay,
            "names": [member.name for member in members[:3]],
        }
        for (group, optimizer, rate, decay), members in rows.items()
    ]


def _by_nature(name: str, parameter: Tensor, nature: _Nature, optim: Optim) -> Claim:
    plain = nature.table or parameter.ndim < 2
    muon = optim.name == "muon" and not plain and not nature.head and bool(nature.parts)
    return Claim(
        name,
        parameter,
        group="hidden matrices" if muon else "tables, norms and vectors" if plain else "matrices",
        optimizer="muon" if muon else "adamw",
        rate=optim.muon_lr if muon else optim.lr,
        weight_decay=0.0 if plain else optim.weight_decay,
        parts=nature.parts,
    )


def _by_pattern(name: str, parameter: Tensor, nature: _Nature, optim: Optim, group: Group) -> Claim:
    usual = _by_nature(name, parameter, nature, optim)
    optimizer = group.optimizer or usual.optimizer
    if optimizer == "muon" and not nature.parts:
        raise PartimentoError(
            "TRAIN011",
            f"Muon cannot take {name}, of shape {list(parameter.shape)}",
            where=f"optim.groups, pattern {group.pattern!r}",
            why="Muon makes the update of a matrix orthogonal; this is no matrix of two rows and columns at least",
            next='give the group a narrower pattern, or optimizer = "adamw"',
            name=name,
        )
    peak = optim.muon_lr if optimizer == "muon" else optim.lr
    decay = usual.weight_decay if group.weight_decay is None else group.weight_decay
    return Claim(name, parameter, group.pattern, optimizer, peak * group.lr, decay, nature.parts)


def _natures(module: nn.Module) -> dict[Tensor, _Nature]:
    """Of a tied parameter every owner has a say: it is a table, or a head, if it is one for any of them."""
    natures: dict[Tensor, _Nature] = {}
    for path, owner in module.named_modules():
        is_table = isinstance(owner, nn.Embedding | nn.EmbeddingBag) or "norm" in type(owner).__name__.lower()
        is_head = path.rpartition(".")[2] == "head"
        for name, parameter in owner.named_parameters(recurse=False):
            table_like = is_table or any(word in name.lower() for word in ("embed", "norm", "table"))
            before = natures.get(parameter, _Nature(False, False, _parts(owner, parameter)))
            natures[parameter] = _Nature(before.table or table_like, before.head or is_head, before.parts)
    return natures


def _parts(owner: nn.Module, parameter: Tensor) -> tuple[int, ...]:
    """Rows of the matrices in a parameter: what its owner says (`parts`, of fused projections), or one for each group
    of a convolution, whose kernels [O, I, k...] are the matrices [O, I k...]. Empty if one of them has but a row or a
    column (a depthwise kernel, say), where orthogonal would only mean normalized."""
    if parameter.ndim < 2:
        return ()
    rows, columns = parameter.shape[0], math.prod(parameter.shape[1:])
    parts: tuple[int, ...] = getattr(owner, "parts", None) or (rows,)
    if isinstance(owner, _CONVOLUTIONS):
        parts = (rows // owner.groups,) * owner.groups
    if sum(parts) != rows:
        raise ValueError(f"the parts {parts} of {type(owner).__name__} are not its {rows} rows")
    return parts if min(*parts, columns) > 1 else ()


def _compiled(pattern: str, number: int) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise _pattern(pattern, number, f"it is not a regular expression: {error}", ()) from error


def _pattern(pattern: str, number: int, why: str, claims: Sequence[Claim]) -> PartimentoError:
    examples = ", ".join(one.name for one in claims[:3])
    return PartimentoError(
        "TRAIN010",
        f"the pattern {pattern!r} claims no parameter",
        where=f"optim.groups, number {number + 1}",
        why=why + (f" (the model has {examples}, ...)" if examples else ""),
        next="correct the pattern, or take the group out; earlier groups claim first",
        pattern=pattern,
    )


def _unclaimed(name: str, parameter: Tensor) -> PartimentoError:
    return PartimentoError(
        "TRAIN012",
        f"no optimizer takes the parameter {name}: it is {str(parameter.dtype).removeprefix('torch.')}",
        why="its moments would be as coarse: an update of less than 1/256 of a bfloat16 value is lost",
        next="keep weights in float32 and set train.precision=bf16, which computes in bfloat16",
        name=name,
    )

"""Which optimizer trains which parameter: every trainable one is claimed exactly once, by name, and can be printed.

`optim.groups` come first (the first pattern found in a name claims it, as in torchtitan), then the built-in rule:
Muon takes the hidden matrices if it is the run's optimizer, AdamW everything else; only matrices decay. The kernels of
a convolution are the matrix from all that an output sees; a convolution from or to a single channel is not hidden.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from partimento.config import Group, Optim
from partimento.errors import PartimentoError

MOST_PARTS = 24  # of a model, in a table
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


@dataclass(frozen=True)
class Claim:
    """One parameter and how it is trained. `rate` is the peak rate. `parts` are the rows of each matrix that lies in
    it (several where matrices are fused, none where Muon cannot take it). `inputs_first`: it is [I, O, k...], as
    transposed convolutions have it, so that rows are those of [O, I k...] (`matrices`)."""

    name: str
    parameter: Tensor
    group: str
    optimizer: str
    rate: float
    weight_decay: float
    parts: tuple[int, ...]
    inputs_first: bool = False


@dataclass(frozen=True)
class _Nature:
    """What a parameter is: `table` if its rows are looked up or it scales (decay would pull it to zero without making
    the function smoother), `head` if its output is logits or one end of it is the signal, the rest as in Claim."""

    table: bool
    head: bool
    parts: tuple[int, ...]
    inputs_first: bool = False


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


def modules(module: nn.Module) -> list[dict[str, Any]]:
    """Rows for printing, one a part of the model: {"module", "tensors", "trained", "frozen"} (parameters).

    A part is a path without its numbers (all blocks of a stack are one) of at most three names, or of two where that
    would be a long table. Tied parameters count once, under their first name. Works on the meta device too.
    """
    for depth in (3, 2, 1):
        rows: dict[str, dict[str, Any]] = {}
        for name, parameter in module.named_parameters():
            *path, last = [step for step in name.split(".") if not step.isdigit()]
            part = ".".join((path if path and last in ("weight", "bias") else [*path, last])[:depth])
            row = rows.setdefault(part, {"module": part, "tensors": 0, "trained": 0, "frozen": 0})
            row["tensors"] += 1
            row["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
        if len(rows) <= MOST_PARTS:
            break
    return list(rows.values())


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
        inputs_first=nature.inputs_first,
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
    return replace(usual, group=group.pattern, optimizer=optimizer, rate=peak * group.lr, weight_decay=decay)


def _natures(module: nn.Module) -> dict[Tensor, _Nature]:
    """Of a tied parameter every owner has a say: it is a table, or a head, if it is one for any of them."""
    natures: dict[Tensor, _Nature] = {}
    for path, owner in module.named_modules():
        is_table = isinstance(owner, nn.Embedding | nn.EmbeddingBag) or "norm" in type(owner).__name__.lower()
        is_head = path.rpartition(".")[2] == "head" or _touches_the_signal(owner)
        for name, parameter in owner.named_parameters(recurse=False):
            table_like = is_table or any(word in name.lower() for word in ("embed", "norm", "table"))
            table_like = table_like or _is_broadcast_vector(owner, parameter)
            new = _Nature(False, False, _parts(owner, parameter), isinstance(owner, _TRANSPOSED))
            before = natures.get(parameter, new)
            natures[parameter] = replace(before, table=before.table or table_like, head=before.head or is_head)
    return natures


def _touches_the_signal(owner: nn.Module) -> bool:
    """The first or last convolution of a network on a wave, or the one that gives a score: of rank 1 at each tap."""
    return isinstance(owner, _CONVOLUTIONS) and min(owner.in_channels, owner.out_channels) == 1


def _is_broadcast_vector(owner: nn.Module, parameter: Tensor) -> bool:
    """A factor of each channel that is stored as [1, C, 1], say: a scale, not a matrix."""
    if isinstance(owner, _CONVOLUTIONS):
        return False
    return parameter.ndim > 2 and parameter.numel() == max(parameter.shape)


def _parts(owner: nn.Module, parameter: Tensor) -> tuple[int, ...]:
    """Rows of the matrices in a parameter: what its owner says (`parts`, of fused projections), or one for each group
    of a convolution, whose kernels [O, I, k...] are the matrices [O, I k...] (`matrices`). Empty if one of them has but
    a row or a column (a depthwise kernel, say), where orthogonal would only mean normalized."""
    if parameter.ndim < 2:
        return ()
    rows, columns = parameter.shape[0], math.prod(parameter.shape[1:])
    parts: tuple[int, ...] = getattr(owner, "parts", None) or (rows,)
    if isinstance(owner, _CONVOLUTIONS):
        rows, columns = owner.out_channels, parameter.numel() // owner.out_channels
        parts = (rows // owner.groups,) * owner.groups
    if sum(parts) != rows:
        raise ValueError(f"the parts {parts} of {type(owner).__name__} are not its {rows} rows")
    return parts if min(*parts, columns) > 1 else ()


def matrices(tensors_N: Tensor, claim: Claim) -> Tensor:
    """N tensors of a claim's shape as matrices [N, rows, columns], whose rows are those of `claim.parts`.

    Of a transposed convolution [I, O / groups, k...], rows are outputs and columns what they see: [O, I / groups k...].
    """
    if not claim.inputs_first:
        return tensors_N.flatten(2)
    groups = len(claim.parts)
    return tensors_N.unflatten(1, (groups, -1)).transpose(2, 3).flatten(1, 2).flatten(2)


def from_matrices(matrices_NRC: Tensor, claim: Claim) -> Tensor:
    """The inverse of `matrices`: [N, *shape]."""
    shape = claim.parameter.shape
    if not claim.inputs_first:
        return matrices_NRC.view(-1, *shape)
    groups = len(claim.parts)
    inputs, outputs, *kernel = shape
    return matrices_NRC.view(-1, groups, outputs, inputs // groups, *kernel).transpose(2, 3).reshape(-1, *shape)


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

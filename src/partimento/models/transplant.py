"""Feed-forwards of a MusicGen into the experts of a mixture, layer by layer, and a report of every tensor.

Layer i of the Llama takes layer i of MusicGen's decoder: `up` is fc1, `down` is fc2 (both without bias, GELU between
them). What leads to them and away, `narrow` and `widen`, has no counterpart there.
Shapes: W expert width, F inner width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.experts import FeedforwardExpert
from partimento.models.mixture import MixtureDecoder


class Feedforwards(Protocol):
    """What is transplanted: up_L [F, W] and down_L [W, F] of every layer, and their two names in `source`."""

    @property
    def source(self) -> str: ...
    @property
    def names_L(self) -> Sequence[tuple[str, str]]: ...
    @property
    def up_L(self) -> Sequence[Tensor]: ...
    @property
    def down_L(self) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Row:
    """One tensor of the experts: from where it came, or None and why it did not."""

    name: str
    layer: int
    shape: tuple[int, ...]
    origin: str | None
    why: str = ""


@dataclass(frozen=True)
class Transplant:
    """The report: one row a tensor of the experts, in order, and the layers of the source that none took. `str` is a
    table for people."""

    source: str
    rows: tuple[Row, ...]
    unused: tuple[int, ...]

    @property
    def taken(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.origin is not None)

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "rows": [asdict(row) for row in self.rows], "unused": list(self.unused)}

    def __str__(self) -> str:
        head = ("tensor", "layer", "shape", "from", "")
        cells = [head, *((r.name, str(r.layer), _size(r.shape), r.origin or "-", r.why) for r in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        unused = f"; its layers {', '.join(map(str, self.unused))} are not used" if self.unused else ""
        return "\n".join([*lines, f"{len(self.taken)} of {len(self.rows)} tensors from {self.source}{unused}"])


@torch.no_grad()
def transplant(decoder: MixtureDecoder, donor: Feedforwards, *, random: Collection[int] = ()) -> Transplant:
    """Copies the feed-forwards into the experts (kind feedforward, activation gelu), after `initialise`; the layers of
    the Llama in `random` keep what was drawn.

    Raises MODEL041 before anything is copied: other experts, a layer that the source does not have (and that `random`
    does not name), a tensor of another shape, or one that holds a number that is none.
    """
    experts = [expert for expert in decoder.experts if isinstance(expert, FeedforwardExpert) and expert.gate is None]
    if len(experts) != len(decoder.experts):
        kind = decoder.config.experts
        raise _unfit(f"experts of kind {kind.kind} with {kind.activation} have no place for fc1 and fc2")
    layers = len(donor.names_L)
    if wrong := sorted(set(random) - set(range(len(experts)))):
        raise _unfit(f"there is no layer {wrong[0]} to be random: the Llama has {len(experts)}")
    rows: list[Row] = []
    copies: list[tuple[Tensor, Tensor]] = []
    for layer, expert in enumerate(experts):
        origin: dict[str, str] = {}
        if layer not in random:
            if layer >= layers:
                raise _unfit(f"{donor.source} has {layers} layers, and layer {layer} of the Llama has no counterpart")
            for part, name, tensor in zip(
                ("up", "down"), donor.names_L[layer], (donor.up_L[layer], donor.down_L[layer]), strict=True
            ):
                weight = getattr(expert, part).weight
                _check(name, tensor, weight)
                copies.append((weight, tensor))
                origin[part] = name
        rows += [_row(expert, part, layer, origin.get(part)) for part in ("narrow", "up", "down", "widen")]
    for weight, tensor in copies:
        weight.copy_(tensor)
    taken = {layer for layer in range(len(experts)) if layer not in random}
    return Transplant(donor.source, tuple(rows), tuple(layer for layer in range(layers) if layer not in taken))


def _row(expert: FeedforwardExpert, part: str, layer: int, origin: str | None) -> Row:
    weight: Tensor = getattr(expert, part).weight
    why = ""
    if origin is None and part in ("up", "down"):
        why = "random: this layer was told to be"
    elif part == "narrow":
        why = "random: leads from the width of the Llama, which the source has not"
    elif part == "widen":
        why = "zero" if expert.config.place == "beside" else "random"
        why += ": leads to the width of the Llama, which the source has not"
    return Row(f"experts.{layer}.{part}.weight", layer, tuple(weight.shape), origin, why)


def _check(name: str, tensor: Tensor, weight: Tensor) -> None:
    if tensor.shape != weight.shape:
        raise _unfit(f"{name} is {_size(tensor.shape)}, and the expert's {_size(weight.shape)}")
    if not torch.isfinite(tensor).all():
        raise _unfit(f"{name} holds a number that is not finite")


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _unfit(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL041",
        "these feed-forwards cannot become experts",
        why=why,
        next="set model.expert_width and model.expert_inner to the source's widths, or leave model.experts_from out",
    )

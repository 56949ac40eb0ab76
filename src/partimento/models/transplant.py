"""Feed-forwards of a MusicGen into the experts of a mixture, layer by layer, and a report of every tensor.

Layer i of the Llama takes layer i of MusicGen's decoder: `up` is fc1, `down` is fc2 (both without bias, GELU between
them). What leads to them and away, `narrow` and `widen`, has no counterpart there.
Shapes: W expert width, F inner width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.experts import FeedforwardExpert
from partimento.models.mixture import MixtureDecoder

RULE = (
    "layer i of the backbone takes layer i of the source, from 0 on; further layers of the source are not used, and a "
    "source with fewer layers is refused"
)


class Feedforwards(Protocol):
    """What is transplanted, of the model `source`: up_L [inner, width] and down_L [width, inner] of every layer, and
    their two names there. Where only shapes are planned, up_L and down_L are empty."""

    @property
    def source(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def inner(self) -> int: ...
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
    """The report: one row a tensor of the experts, in order. The source has `layers`, of which none took those in
    `unused`. `runs.transplanted` makes a table for people of its JSON."""

    source: str
    layers: int
    rows: tuple[Row, ...]
    unused: tuple[int, ...]

    @property
    def taken(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.origin is not None)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "rule": RULE,
            "layers": self.layers,
            "rows": [asdict(row) for row in self.rows],
            "unused": list(self.unused),
        }


def paired(decoder: MixtureDecoder, donor: Feedforwards) -> Transplant:
    """Which tensor of the experts takes which of the source, from shapes alone; what a source with too few layers lacks
    is told in its rows.

    Raises MODEL041: experts that have no place for them (their kind is not feedforward), or of other
    widths.
    """
    experts = [expert for expert in decoder.experts if isinstance(expert, FeedforwardExpert)]
    if len(experts) != len(decoder.experts):
        why = f"experts of kind {decoder.config.experts.kind} have no place for fc1 and fc2"
        raise _unfit(why, "set model.experts=feedforward, or leave model.experts_from out")
    layers = len(donor.names_L)
    shapes = {"up": (donor.inner, donor.width), "down": (donor.width, donor.inner)}
    rows: list[Row] = []
    for layer, expert in enumerate(experts):
        origin = dict(zip(shapes, donor.names_L[layer], strict=True)) if layer < layers else {}
        for part, name in origin.items():
            _check_shape(name, shapes[part], getattr(expert, part).weight)
        rows += [_row(expert, part, layer, origin.get(part)) for part in ("narrow", "up", "down", "widen")]
    return Transplant(donor.source, layers, tuple(rows), tuple(range(len(experts), layers)))


@torch.no_grad()
def transplant(decoder: MixtureDecoder, donor: Feedforwards) -> Transplant:
    """Copies the feed-forwards into the experts, after `initialise`.

    Raises MODEL041 before anything is copied: as `paired`, for a source with fewer layers than the Llama, for a tensor
    of another shape, and for one that holds a number that is none.
    """
    report, layers = paired(decoder, donor), len(decoder.experts)
    if report.layers < layers:
        why = f"{donor.source} has {report.layers} layers, and layer {report.layers} of the Llama's {layers} takes none"
        larger = f"one with {layers} layers or more (musicgen-medium and musicgen-large have 48)"
        raise _unfit(why, f"set model.experts_from to {larger}, or leave it out: experts then begin at random")
    copies: list[tuple[Tensor, Tensor]] = []
    for layer, expert in enumerate(decoder.experts):
        tensors = (donor.up_L[layer], donor.down_L[layer])
        for part, name, tensor in zip(("up", "down"), donor.names_L[layer], tensors, strict=True):
            weight = getattr(expert, part).weight
            _check_shape(name, tensor.shape, weight)
            if not torch.isfinite(tensor).all():
                raise _unfit(f"{name} holds a number that is not finite", "fetch the model again")
            copies.append((weight, tensor))
    for weight, tensor in copies:
        weight.copy_(tensor)
    return report


def _row(expert: FeedforwardExpert, part: str, layer: int, origin: str | None) -> Row:
    weight: Tensor = getattr(expert, part).weight
    why = ""
    if origin is None and part in ("up", "down"):
        why = "missing: the source has no such layer"
    elif part == "narrow":
        why = "random: from the width of the backbone, without counterpart in the source"
    elif part == "widen":
        why = "zero" if expert.config.place == "beside" else "random"
        why += ": back to the width of the backbone, without counterpart in the source"
    return Row(f"experts.{layer}.{part}.weight", layer, tuple(weight.shape), origin, why)


def _check_shape(name: str, shape: Sequence[int], weight: Tensor) -> None:
    if tuple(shape) != tuple(weight.shape):
        raise _unfit(
            f"{name} is {_size(shape)}, and the expert's {_size(weight.shape)}",
            "set model.expert_width and model.expert_inner to the source's widths, or leave model.experts_from out",
        )


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _unfit(why: str, next: str) -> PartimentoError:
    return PartimentoError("MODEL041", "these feed-forwards cannot become experts", why=why, next=next)

"""Where every tensor of a foreign checkpoint lies in a model of ours, and the two copies along these places.

Nothing is guessed: every tensor of theirs has one place in ours and the reverse, and an import where one is missing,
left over or of another shape is refused whole, with the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from partimento.errors import PartimentoError


@dataclass
class WeightsReport:
    """What an import found: their names that were `loaded`, `missing`, `left` over, or `misshapen` ("name: shapes").

    `apart` are tensors that belong to another model of the same checkpoint (the audio codec of a MusicGen).
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.left or self.misshapen)


@dataclass(frozen=True)
class Place:
    """`ours` is the part of our parameter that a tensor of theirs is: a view, with the axes of theirs.

    With `rows`, theirs has that many entries along `axis`, of which ours has the first: logits of ids that are never
    drawn. With `folded`, theirs stores the first two axes as one.
    """

    ours: Tensor
    axis: int = 0
    rows: int | None = None
    folded: bool = False

    @property
    def whole(self) -> list[int]:
        """The shape of theirs, not folded."""
        shape = list(self.ours.shape)
        if self.rows is not None:
            shape[self.axis] = self.rows
        return shape

    @property
    def shape(self) -> list[int]:
        """As theirs is stored."""
        whole = self.whole
        return [whole[0] * whole[1], *whole[2:]] if self.folded else whole

    def put(self, theirs: Tensor) -> None:
        self.ours.copy_(theirs.reshape(self.whole).narrow(self.axis, 0, self.ours.shape[self.axis]))

    def take(self) -> Tensor:
        """Theirs, a copy. Entries that ours does not have are copies of the last one (the end of sequence): what reads
        them by mistake finds an end there, and no code."""
        ours = self.ours.detach()
        if self.rows is not None:
            last = ours.narrow(self.axis, ours.shape[self.axis] - 1, 1)
            ours = torch.cat([ours, *[last] * (self.rows - ours.shape[self.axis])], dim=self.axis)
        return ours.reshape(self.shape).clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def load(
    places: Mapping[str, Place], state: Mapping[str, Tensor], report: WeightsReport | None = None
) -> WeightsReport:
    """Copies every tensor of `state` to its place. Names that `report` has already are accounted for.

    Raises MODEL002 with the report, and leaves the model as it was, unless every name and shape fits.
    """
    report = report or WeightsReport()
    known = {*report.loaded, *report.apart, *report.left, *(text.split(":")[0] for text in report.misshapen)}
    report.missing += [name for name in places if name not in state]
    fits: list[str] = []
    for name, value in state.items():
        if name in known:
            continue
        if name not in places:
            report.left.append(name)
        elif places[name].shape != list(value.shape):
            report.misshapen.append(f"{name}: {list(value.shape)} where {places[name].shape} belongs")
        elif not value.is_floating_point():
            report.misshapen.append(f"{name}: {str(value.dtype).removeprefix('torch.')} where fractions belong")
        elif not bool(torch.isfinite(value).all()):
            report.misshapen.append(f"{name}: not all of its numbers are finite")
        else:
            fits.append(name)
    require_complete(report)
    for name in fits:
        places[name].put(state[name])
    report.loaded += fits
    return report


def require_complete(report: WeightsReport) -> None:
    if report.complete:
        return
    raise PartimentoError(
        "MODEL002",
        "the weights do not fit the model",
        why="; ".join(
            f"{kind}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
            for kind, names in asdict(report).items()
            if names and kind in ("missing", "left", "misshapen")
        ),
        next="build the model from the config.json that belongs to these weights",
        report=asdict(report),
    )


def dump(places: Iterable[tuple[str, Place]]) -> dict[str, Tensor]:
    """Copies of all tensors under their names."""
    return {name: place.take() for name, place in places}


def require_architecture(fits: Mapping[str, bool], what: str, next: str) -> None:
    """Raises MODEL002 with the names that do not fit."""
    wrong = [name for name, fit in fits.items() if not fit]
    if wrong:
        raise PartimentoError(
            "MODEL002", f"this model is not {what}", why=f"it differs in {', '.join(wrong)}", next=next
        )

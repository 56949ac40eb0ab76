"""What building a model gives, and the freezing of its weights by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder
from partimento.models.dia import TextModel
from partimento.models.mixture import MixtureDecoder, MixtureModel
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials
from partimento.tokens.text import TagWords, TextCoder

Coder = TagWords | TextCoder
Model = CodeDecoder | TextModel | MixtureModel
Decoder = CodeDecoder | MixtureDecoder


@dataclass(frozen=True)
class Built:
    """`how` is the JSON from which `rebuild` makes module and coder again (weights apart, but for those of `base`).

    `null_trained`: the weights knew the null condition before this training. `notes` are what a person should be told.
    """

    module: Model
    pattern: Pattern
    specials: Specials
    coder: Coder
    ending: Ending
    rule: Literal["mix", "filter"]
    null_trained: bool
    how: dict[str, Any]
    notes: tuple[str, ...] = ()


def freeze(module: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Weights that are not to be trained, by regular expressions that are searched in the names of those that are; the
    names found. Raises TRAIN059 for a pattern that freezes nothing, or where nothing is left."""
    names = [name for name, weight in module.named_parameters() if weight.requires_grad]
    found: list[str] = []
    for pattern in patterns:
        frozen = [name for name in names if _search(pattern, name)]
        if not frozen:
            raise _nothing(pattern, "no weight that is trained has such a name", names)
        for name in frozen:
            module.get_parameter(name).requires_grad_(False)
        found += frozen
    if not any(weight.requires_grad for weight in module.parameters()):
        raise _nothing(str(list(patterns)), "nothing is left to train", names)
    return found


def _search(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise _nothing(pattern, f"it is not a regular expression: {error}", ()) from error


def _nothing(pattern: str, why: str, names: Sequence[str]) -> PartimentoError:
    return PartimentoError(
        "TRAIN059",
        f"model.freeze = {pattern!r} cannot be followed",
        why=why + (f" (there are {', '.join(names[:3])}, ...)" if names else ""),
        next="partimento plan CONFIG prints the weights and who trains them",
    )

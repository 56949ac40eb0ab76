"""Losses that one step adds up, looked at one at a time.

A mixture learns from words to sound and from sound to words in every pass, and most parameters get a gradient of both.
Where one of them is cut off the other goes on, so that every weight still learns and every call of attention has live
keys: only the gradient of that one loss alone says that it teaches nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from partimento.models.mixture import MixtureModel
from partimento.training.muon import local
from partimento.training.task import Direction, Total, alone


def to_reach(module: MixtureModel) -> dict[str, dict[str, list[str]]]:
    """{"captions", "sound"}: {what: names of its trained parameters, of which one at least must have a gradient}.

    Words are predicted from what audio rows leave in every layer, so their loss teaches the rows of the codes and the
    experts. Where the text's own way is trained, the loss of the codes teaches that: its ids, and every block. Of a
    last block only keys and values are read.
    """
    trained = [name for name, weight in module.named_parameters() if weight.requires_grad]
    layers = module.llama.config.layers
    captions = {"decoder.embedding": ["decoder.embedding"]}
    ids = "decoder.llama.embedding.weight"
    return {
        "captions": _known(trained, captions | _passed(trained, "decoder.experts", layers)),
        "sound": _known(trained, {ids: [ids]} | _passed(trained, "decoder.llama.blocks", layers)),
    }


def _passed(trained: list[str], stack: str, layers: int) -> dict[str, list[str]]:
    found = {f"{stack}.{n}": [name for name in trained if name.startswith(f"{stack}.{n}.")] for n in range(layers)}
    last = found.pop(f"{stack}.{layers - 1}")
    for what in ("key", "value"):
        found[f"{stack}.{layers - 1} ({what}s)"] = [name for name in last if what in name.split(".")]
    return found


def _known(trained: list[str], wanted: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Without what is frozen whole."""
    kept = {what: [name for name in names if name in trained] for what, names in wanted.items()}
    return {what: names for what, names in kept.items() if names}


@torch.no_grad()
def reached(direction: Direction, module: nn.Module, total: Total = alone) -> set[str]:
    """What of `direction.reaches` has a gradient that is not zero everywhere, on any rank. The device is waited for."""
    names = sorted({name for of in direction.reaches.values() for name in of})
    if not names:
        return set()
    counts = total(torch.stack([_any(module.get_parameter(name)) for name in names])).tolist()
    there = {name for name, count in zip(names, counts, strict=True) if count}
    return {what for what, of in direction.reaches.items() if there.intersection(of)}


def _any(weight: Tensor) -> Tensor:
    if weight.grad is None:
        return torch.zeros((), device=weight.device)
    return local(weight.grad).ne(0).any().float()

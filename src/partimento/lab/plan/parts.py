"""The parameters of a model by its parts."""

from __future__ import annotations

from torch import nn

from partimento.models.dia import TextModel
from partimento.models.mixture import MixtureModel

_BACKBONE = "decoder.llama."
_ROWS = {"decoder.embedding": "codes: input rows", "decoder.head.weight": "codes: output rows"}
_FEEDFORWARD = ("gate", "up", "down")
_COPIES = ("full", "feedforward_copy")


def parts(module: nn.Module, *, trained: bool = False) -> dict[str, int]:
    """Parameters, or the trained ones, of every child of the module, its own under their own names; those without any
    are left out. Of a model that reads text, of every child of its encoder and its decoder; of a mixture, by what they
    are for."""
    found: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        part = _part(module, name)
        found[part] = found.get(part, 0) + (parameter.numel() if parameter.requires_grad or not trained else 0)
    return found


def _part(module: nn.Module, name: str) -> str:
    path = name.split(".")
    if not isinstance(module, MixtureModel):
        return ".".join(path[: 2 if isinstance(module, TextModel) else 1])
    if name.startswith(_BACKBONE):
        return "backbone: output rows" if path[2] == "head" else f"backbone: {path[2]}"
    if name in _ROWS:
        return _ROWS[name]
    kind = module.decoder.config.experts.kind  # decoder.experts.3.up.weight
    if kind in _COPIES:
        return "experts: copies"
    return "experts: feed-forward" if kind == "feedforward" and path[3] in _FEEDFORWARD else "experts: adapters"

"""Whether what a training put beside a backbone fits a configuration: names and shapes do not say what tensors mean.

The same matrices are another model beside a feed-forward and instead of it, with another factor of a LoRA, beside other
frozen feed-forwards, or for the codes of another codec.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.models.mixture import MixtureModel
from partimento.runs.adapters import Adapter
from partimento.runs.backbones import Feedforwards
from partimento.tokens.spec import CodecSpec
from partimento.training.fitting import same_codes

MEANINGS = ("vocabulary", "codebooks", "outputs", "rows", "pad_row")
"""Of a mixture's description, what the rows of codes mean. Its Llama is known by a hash; its length may be another."""


def fits(start: Adapter, module: MixtureModel, donor: Feedforwards | None, spec: CodecSpec) -> list[str]:
    """Notes on what `start` was trained with. Raises TRAIN073 where it was other experts, other rows or another model
    for the feed-forwards that it does not hold; TRAIN058 where it was other codes. (Names and shapes are not looked at
    here.)"""
    theirs, ours = start.description["mixture"]["decoder"], module.to_json()["decoder"]
    sides = [_experts(tree["experts"]) | {name: tree.get(name) for name in MEANINGS} for tree in (theirs, ours)]
    for name in sides[1]:
        there, here = (side.get(name) for side in sides)
        if there != here:
            raise _unlike(start, f"{name} is {there} there and {here} here")
    _same_donor(start, module, donor)
    return same_codes(CodecSpec.from_json(start.description["spec"]), spec, Path(start.folder))


def _experts(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Of the description of experts, what changes what they compute."""
    told = {f"experts.{name}": value for name, value in stored.items() if name != "dropout"}
    told["experts.alpha"] = stored.get("alpha") or stored.get("rank")
    return told


def _same_donor(start: Adapter, module: MixtureModel, donor: Feedforwards | None) -> None:
    """Feed-forwards that were frozen are not among the tensors: they are read again, from the same model."""
    was = (start.description.get("experts") or {}).get("sha256")
    here, learned = None if donor is None else donor.sha256, start.tensors()
    named = (name for name, _ in module.decoder.experts.named_parameters(prefix="decoder.experts"))
    frozen = any(name.endswith((".up.weight", ".down.weight")) and name not in learned for name in named)
    if was is not None and frozen and was != here:
        now = "here from none" if here is None else f"here from one that begins with {here[:12]}"
        raise _unlike(start, f"its experts are of a model whose sha256 begins with {was[:12]}, {now}")


def _unlike(start: Adapter, why: str) -> PartimentoError:
    return another(f"{start.folder} is of another model than this configuration", str(start.folder), why)


def another(message: str, where: str, why: str) -> PartimentoError:
    """TRAIN073."""
    return PartimentoError(
        "TRAIN073",
        message,
        where=where,
        why=why,
        next="name the model that it was trained with: partimento weights inspect FOLDER shows it",
    )

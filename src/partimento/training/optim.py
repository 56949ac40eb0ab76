"""The optimizer: fused AdamW over parameters that are each claimed exactly once, with state that is saved by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from partimento.config import Optim
from partimento.errors import PartimentoError

SLOTS = ("step", "exp_avg", "exp_avg_sq")


def claims(module: nn.Module) -> dict[str, list[str]]:
    """{"decayed": names, "plain": names} of the trainable parameters.

    Decayed are the matrices that mix features. Embeddings (rows that are looked up), norms, biases and other vectors
    are not: decay would pull them to zero without making the function any smoother.
    """
    name_of = {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}
    group_of: dict[str, str] = {}
    for owner in module.modules():
        is_table = isinstance(owner, nn.Embedding | nn.EmbeddingBag) or "norm" in type(owner).__name__.lower()
        for own_name, parameter in owner.named_parameters(recurse=False):
            if parameter not in name_of:
                continue
            plain = is_table or parameter.ndim < 2 or "embed" in own_name.lower() or "norm" in own_name.lower()
            # A tied parameter has two owners and one name; it is plain if either owner says so.
            name = name_of[parameter]
            group_of[name] = "plain" if plain else group_of.get(name, "decayed")
    if unclaimed := set(name_of.values()) - set(group_of):
        raise ValueError(f"parameters that no group claims: {sorted(unclaimed)}")
    return {group: [name for name in name_of.values() if group_of[name] == group] for group in ("decayed", "plain")}


def make_optimizer(module: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """Fused AdamW, weight decay on the matrices only. The engine sets the rate before every step."""
    parameters = dict(module.named_parameters())
    decay = {"decayed": optim.weight_decay, "plain": 0.0}
    groups = [
        {"params": [parameters[name] for name in names], "weight_decay": decay[group]}
        for group, names in claims(module).items()
        if names
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), fused=True)


def step_unless(bad: Tensor, optimizer: torch.optim.AdamW, rate: float) -> None:
    """One optimizer step, or none if the 0-D bool `bad` is true, decided on the device.

    This is the contract between fused optimizers and GradScaler: with `found_inf` set, weights, moments and the step
    counts stay bitwise as they were, even if gradients are NaN (multiplying the update by 0 would not do that).
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()


def state_by_name(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as {"NAME.exp_avg": tensor, ...}; parameters that never had a gradient have none."""
    return {
        f"{name}.{slot}": optimizer.state[parameter][slot]
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for slot in SLOTS
    }


def load_state_by_name(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `state_by_name`. Raises TRAIN003 if a name or a shape does not fit the module."""
    left = dict(tensors)
    for name, parameter in module.named_parameters():
        found = {slot: left.pop(f"{name}.{slot}") for slot in SLOTS if f"{name}.{slot}" in left}
        if not found:
            continue
        if len(found) < len(SLOTS) or found["exp_avg"].shape != parameter.shape or not parameter.requires_grad:
            raise misfit(f"{name} in the optimizer state")
        optimizer.state[parameter] = {slot: tensor.to(parameter.device) for slot, tensor in found.items()}
    if left:
        raise misfit(f"{next(iter(left))} in the optimizer state")


def misfit(what: str) -> PartimentoError:
    return PartimentoError(
        "TRAIN003",
        f"the checkpoint does not fit the model: {what}",
        why="the model's code or its configuration differs from what wrote the checkpoint",
        next="resume with the version of partimento that run.json names, or start a new run (leave --run away)",
    )

"""Averaged weights, in a slot of their own: never mixed up with the raw ones, to which the moments belong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from partimento.training.optim import misfit


class Ema:
    """avg <- d avg + (1 - d) weights after each optimizer step, with d = min(decay, (1 + n) / (10 + n)) at update n.

    The warm-up of the decay keeps the initial weights from weighing on short runs. Parameters are averaged; buffers
    (codebooks that have an average of their own, counters) are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.updates = 0
        self.weights = {name: tensor.clone() for name, tensor in named_state(module).items()}
        self._averaged = [name for name, weight in module.named_parameters() if weight.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        live = named_state(self.module)
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = [self.weights[name] for name in self._averaged]
        torch._foreach_lerp_(averages, [live.pop(name) for name in self._averaged], 1 - decay)
        for name, tensor in live.items():
            self.weights[name].copy_(tensor)
        self.updates += 1


def named_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, detached but not copied; a tied one appears once, under its first name."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach()
    return state


@torch.no_grad()
def copy_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Overwrite the tensors of `target`. Raises TRAIN003, with nothing changed, unless names and shapes agree."""
    if different := sorted(target.keys() ^ source.keys()):
        raise misfit(f"{different[0]} is only on one side")
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise misfit(f"{name} is {list(source[name].shape)} there and {list(tensor.shape)} here")
    for name, tensor in target.items():
        tensor.copy_(source[name])


@contextlib.contextmanager
def judged(module: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Eval mode, no gradients and, if given, other weights; afterwards all is as it was, whatever happens inside."""
    modes = [(part, part.training) for part in module.modules()]
    raw = {name: tensor.clone() for name, tensor in named_state(module).items()} if weights is not None else {}
    try:
        module.eval()
        if weights is not None:
            copy_into(named_state(module), weights)
        with torch.no_grad():
            yield
    finally:
        if raw:
            copy_into(named_state(module), raw)
        for part, training in modes:
            part.training = training

"""Averaged weights, in a slot of their own: never mixed up with the raw ones, to which the moments belong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from partimento.training.optim import misfit


class Ema:
    """avg <- d avg + (1 - d) weights after each optimizer step, with d = min(decay, (1 + n) / (10 + n)) at update n.

    The warm-up of the decay keeps the initial weights from weighing on short runs. Parameters are averaged; buffers
    (codebooks that have an average of their own, counters) are copied. All of it happens on the device.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.weights = {name: tensor.clone() for name, tensor in named_state(module).items()}
        self.updates = torch.zeros((), device=next(iter(self.weights.values())).device)
        self._averaged = [
            name for name, weight in module.named_parameters() if name in self.weights and weight.is_floating_point()
        ]

    @torch.no_grad()
    def update(self, bad: Tensor) -> None:
        """Average, unless `bad` (0-D bool on the device): then weights, averages and count stay as they are."""
        live = named_state(self.module)
        share = 1 - torch.clamp((1 + self.updates) / (10 + self.updates), max=self.decay)
        share = torch.where(bad, torch.zeros_like(share), share)
        for name in self._averaged:
            _local(self.weights[name]).lerp_(_local(live.pop(name)), share)
        for name, tensor in live.items():
            _local(self.weights[name]).copy_(_local(tensor))
        self.updates += (~bad).to(self.updates)


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor (sharing its memory), or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def named_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, detached but not copied; a tied one appears once, under its first name.

    Frozen parameters are left out: they are not averaged, and a checkpoint names the folder of weights that they are.
    """
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        if id(tensor) not in seen and not frozen:
            seen.add(id(tensor))
            state[name] = tensor.detach()
    return state


def sharded_like(full: Tensor, like: Tensor) -> Tensor:
    """`full` (the same on every rank) on the device of `like`, and sharded as it is; nothing is sent between ranks."""
    if not isinstance(like, DTensor):
        return full.to(like.device)
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def copy_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Overwrite the tensors of `target` (sharded or not) by full ones, or by ones that are sharded alike.

    Raises TRAIN003, with nothing changed, unless names, shapes and types agree.
    """
    if different := sorted(target.keys() ^ source.keys()):
        raise misfit(f"{different[0]} is only on one side")
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise misfit(f"{name} is {list(source[name].shape)} there and {list(tensor.shape)} here")
        if tensor.dtype != source[name].dtype:
            raise misfit(f"{name} is {source[name].dtype} there and {tensor.dtype} here")
    for name, tensor in target.items():
        other = source[name]
        if isinstance(tensor, DTensor) and not isinstance(other, DTensor):
            other = sharded_like(other, tensor)
        _local(tensor).copy_(_local(other))


@contextlib.contextmanager
def judged(
    module: nn.Module, weights: Mapping[str, Tensor] | None, wrapper: nn.Module | None = None
) -> Iterator[nn.Module]:
    """`module` in eval mode, without gradients and, if given, with other weights; afterwards all is as it was.

    `wrapper` is a module around `module` that goes into eval mode with it.
    """
    modes = [(part, part.training) for part in (wrapper or module).modules()]
    raw = {name: tensor.clone() for name, tensor in named_state(module).items()} if weights is not None else {}
    try:
        (wrapper or module).eval()
        if weights is not None:
            copy_into(named_state(module), weights)
        with torch.no_grad():
            yield module
    finally:
        if raw:
            copy_into(named_state(module), raw)
        for part, training in modes:
            part.training = training

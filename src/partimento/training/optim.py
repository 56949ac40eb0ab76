"""The optimizers of a run as one: fused AdamW and Muon over parameters that are each claimed exactly once (`groups`),
steps that the device itself can skip, state that is saved by name, and the clipping before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, distribute_tensor
from torch.optim.adam import adam

from partimento.config import Optim
from partimento.errors import PartimentoError
from partimento.training import schedule
from partimento.training.groups import Claim, claim, table
from partimento.training.muon import Muon, local, scalar

# Where torch's fused AdamW leaves a step out on request. (The kernels of MPS take the request and ignore it.)
FUSED = ("cpu", "cuda")
EPSILON = 1e-8


class Optimizers:
    """AdamW and Muon for the trainable parameters of a module.

    Make it after the module is on its device and wrapped (FSDP2 replaces parameters), and before the first step.
    Raises TRAIN010-TRAIN013 where `optim` does not fit the module.
    """

    def __init__(self, module: nn.Module, optim: Optim) -> None:
        schedule.check(optim)
        self.claims = claim(module, optim)
        adamw, muon = ([one for one in self.claims if one.optimizer == name] for name in ("adamw", "muon"))
        self._members: list[AdamW | Muon] = [
            AdamW(adamw, (optim.betas[0], optim.betas[1])),
            Muon(muon, optim.muon_momentum),
        ]

    def step(self, bad: Tensor, rate: float) -> None:
        """One step with every group at `rate` times its peak, or none if `bad` (0-D bool on the device) is true: then
        weights, moments and step counts stay bitwise as they were, even if gradients are NaN. Nothing is waited for."""
        for member in self._members:
            member.step(bad, rate)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or (where a recorded graph writes to their memory) fill them with zeros."""
        gradients = [local(one.parameter.grad) for one in self.claims if one.parameter.grad is not None]
        if gradients and not set_to_none:
            torch._foreach_zero_(gradients)
        elif set_to_none:
            for one in self.claims:
                one.parameter.grad = None

    def table(self) -> list[dict[str, Any]]:
        """Who trains what, a row a group (`groups.table`)."""
        return table(self.claims)

    def state(self) -> dict[str, Tensor]:
        """The live tensors as {"NAME.exp_avg": tensor, ..., "NAME.momentum": ...}; sharded ones stay so."""
        return {
            f"{name}.{slot}": tensor
            for member in self._members
            for name, slots in member.slots.items()
            for slot, tensor in slots.items()
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `state` gave, on whatever device; sharded state takes whole tensors or equally sharded ones.

        A parameter of which there is nothing at all had no gradient yet when an older version saved, and starts anew.
        Raises TRAIN003, with nothing changed, if a name, shape or type does not fit.
        """
        mine = self.state()
        if unknown := sorted(tensors.keys() - mine.keys()):
            raise misfit(f"{unknown[0]} in the optimizer state")
        if not tensors.keys() & mine.keys() and mine:
            raise misfit("the optimizer state is empty")
        for member in self._members:
            for name, slots in member.slots.items():
                here = [slot for slot in slots if f"{name}.{slot}" in tensors]
                if here and len(here) < len(slots):
                    raise misfit(f"{name} has only {', '.join(here)} in the optimizer state")
        for name in tensors:
            _check(name, tensors[name], mine[name])
        for name, tensor in mine.items():
            if name in tensors:
                put(tensors[name], tensor)
            else:
                local(tensor).zero_()


class AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused where a fused kernel can skip a step, written out elsewhere.

    Sharded parameters are stepped shard by shard: every element has its own rule, and torch's dispatch of sharded
    tensors costs more than the arithmetic.
    """

    def __init__(self, claims: Sequence[Claim], betas: tuple[float, float]) -> None:
        self.betas = betas
        self.slots = {one.name: _adamw_slots(one.parameter) for one in claims}
        self._groups: dict[tuple[float, float], list[Claim]] = {}
        for one in claims:
            self._groups.setdefault((one.rate, one.weight_decay), []).append(one)

    @torch.no_grad()
    def step(self, bad: Tensor, rate: float) -> None:
        """As Optimizers.step."""
        for (peak, decay), claims in self._groups.items():
            ready = [one for one in claims if one.parameter.grad is not None]
            if not ready:
                continue
            parameters = [local(one.parameter) for one in ready]
            gradients = [local(one.parameter.grad) for one in ready if one.parameter.grad is not None]
            slots = [self.slots[one.name] for one in ready]
            steps = [slot["step"] for slot in slots]
            first, second = ([local(slot[name]) for slot in slots] for name in ("exp_avg", "exp_avg_sq"))
            step = _fused if parameters[0].device.type in FUSED else _written_out
            step(parameters, gradients, first, second, steps, bad, peak * rate, decay, self.betas)


def _adamw_slots(parameter: Tensor) -> dict[str, Tensor]:
    weight = parameter.detach()
    count = torch.zeros((), dtype=torch.float32, device=local(weight).device)
    return {"step": count, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}


def _fused(
    parameters: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    bad: Tensor,
    lr: float,
    decay: float,
    betas: tuple[float, float],
) -> None:
    """`found_inf` is the contract between fused optimizers and GradScaler: with it set, nothing at all changes."""
    adam(
        parameters,
        gradients,
        first,
        second,
        [],
        steps,
        fused=True,
        found_inf=bad.float(),
        decoupled_weight_decay=True,
        amsgrad=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=lr,
        weight_decay=decay,
        eps=EPSILON,
        maximize=False,
    )


def _written_out(
    parameters: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    bad: Tensor,
    lr: float,
    decay: float,
    betas: tuple[float, float],
) -> None:
    """The same by plain operations (MPS, XLA)."""
    rate = scalar(lr, bad.device)
    for weight, gradient, average, square, count in zip(parameters, gradients, first, second, steps, strict=True):
        n = count + 1
        m = torch.lerp(average, gradient, 1 - betas[0])
        v = square * betas[1] + gradient * gradient * (1 - betas[1])
        size = v.sqrt() / (1 - betas[1] ** n).sqrt() + EPSILON
        moved = weight * (1 - rate * decay) - rate / (1 - betas[0] ** n) * (m / size)
        for old, new in ((weight, moved), (average, m), (square, v), (count, n)):
            old.copy_(torch.where(bad, old, new))


@torch.no_grad()
def tensor_norms(tensors: Sequence[Tensor]) -> Tensor:
    """[N] Euclidean norms of N tensors; of sharded ones those of the whole, on every rank, in one reduction."""
    norms = list(torch._foreach_norm([local(tensor) for tensor in tensors]))
    layouts: dict[tuple[DeviceMesh, tuple[Placement, ...]], list[int]] = {}
    for place, tensor in enumerate(tensors):
        if isinstance(tensor, DTensor):
            layouts.setdefault((tensor.device_mesh, tensor.placements), []).append(place)
    for (mesh, placements), places in layouts.items():
        squares = torch.stack([norms[place] for place in places]).square()
        pending = [Partial() if placement.is_shard() else Replicate() for placement in placements]
        whole = DTensor.from_local(squares, mesh, pending, run_check=False).full_tensor().sqrt()
        for place, norm in zip(places, whole.unbind(), strict=True):
            norms[place] = norm
    return torch.stack(norms)


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """0-D: the Euclidean norm of all of them as one vector; the same on every rank."""
    return torch.linalg.vector_norm(tensor_norms(gradients))


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """0-D factor in (0, 1] that brings a gradient of this norm to `limit`; torch's formula, with its 1e-6."""
    return torch.clamp(limit / (norm + 1e-6), max=1.0)


@torch.no_grad()
def clip_global_(gradients: Sequence[Tensor], scale: Tensor, norm: Tensor, limit: float) -> None:
    """Multiply gradients by `scale`, and clip the result, whose norm is `norm`, to `limit`. Nothing is waited for."""
    torch._foreach_mul_([local(gradient) for gradient in gradients], scale * clip_factor(norm, limit))


def put(source: Tensor, target: Tensor) -> None:
    """Overwrite `target` with `source`, which is whole or sharded like it, on any device."""
    if isinstance(target, DTensor) and not isinstance(source, DTensor):
        whole = source.to(target.to_local().device)
        source = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
    local(target).copy_(local(source))


def misfit(what: str) -> PartimentoError:
    return PartimentoError(
        "TRAIN003",
        f"the checkpoint does not fit the model: {what}",
        why="the model's code or its configuration differs from what wrote the checkpoint",
        next="resume with the version of partimento that run.json names, or start a new run (leave --run away)",
    )


def _check(name: str, there: Tensor, here: Tensor) -> None:
    if there.shape != here.shape:
        raise misfit(f"{name} in the optimizer state is {list(there.shape)} there and {list(here.shape)} here")
    if there.dtype != here.dtype:
        raise misfit(f"{name} in the optimizer state is {there.dtype} there and {here.dtype} here")
    if isinstance(there, DTensor) and isinstance(here, DTensor) and there.placements != here.placements:
        raise misfit(f"{name} in the optimizer state is sharded as {there.placements} there, {here.placements} here")

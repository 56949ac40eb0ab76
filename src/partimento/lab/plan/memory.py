"""Bytes on a device, and on the disk, of a training: closed forms over the parameters, and the traced activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from partimento.config import Config
from partimento.lab.plan.trace import Kept
from partimento.training.compiled import blocks
from partimento.training.ema import named_state
from partimento.training.groups import Claim

MOMENTS = {"adamw": 2, "muon": 1}  # tensors of the size of the parameter
FLOAT = 4  # bytes; gradients, moments, averages and what they are of are float32 in every precision
USABLE = 0.92  # of a device's memory: its context, the allocator's gaps, buffers of the libraries


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the highest point of a step, the beginning of the backward pass."""

    weights: int
    gradients: int
    moments: int
    average: int
    copies: int
    """weights in bfloat16 that autocast makes"""
    activations: int
    """with the logits, and the gradient of the largest tensor"""
    adversary: int = 0
    """weights, gradients and moments of the second player, which every device holds whole"""

    @property
    def fixed(self) -> int:
        """All that does not grow with the batch."""
        return self.weights + self.gradients + self.moments + self.average + self.copies + self.adversary

    @property
    def total(self) -> int:
        return self.fixed + self.activations

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}


def on_device(
    module: nn.Module,
    claims: Sequence[Claim],
    config: Config,
    kept: Kept,
    batch: int,
    devices: int,
    rivals: Sequence[Claim] = (),
) -> Memory:
    """One of `devices` devices that share micro-batches of `batch` items.

    Every device holds everything (`train.parallel` "ddp"), or its share of weights, gradients, moments and average,
    and beside it the largest of the parts that FSDP2 gathers, while it computes. `rivals` are the second player's.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))
    trained = FLOAT * sum(one.parameter.numel() for one in claims)
    moments = _moments(claims)
    average = _state(module) if config.optim.ema > 0 else 0
    sizes = _shards(module)
    shares = devices if config.train.parallel == "fsdp" else 1
    gathered = 2 * max(sizes) if shares > 1 else 0  # its weights, then its gradients too
    items = -(-batch // devices)
    return Memory(
        weights=weights // shares + gathered,
        gradients=trained // shares,
        moments=moments // shares,
        average=average // shares,
        copies=kept.copies if shares == 1 else kept.copies // len(sizes),
        activations=round(kept.activations(config.train.recompute) * items),
        adversary=2 * FLOAT * sum(one.parameter.numel() for one in rivals) + _moments(rivals),
    )


def _moments(claims: Sequence[Claim]) -> int:
    return FLOAT * sum(MOMENTS[one.optimizer] * one.parameter.numel() for one in claims)


def _shards(module: nn.Module) -> list[int]:
    """Bytes of what is gathered as one: every block, and all that is outside of the blocks."""
    sizes = [FLOAT * sum(p.numel() for p in block.parameters()) for block in blocks(module)]
    return [*sizes, FLOAT * sum(p.numel() for p in module.parameters()) - sum(sizes)]


def _state(module: nn.Module) -> int:
    """Bytes of what is trained, with the buffers that are saved: frozen weights have no average and no checkpoint."""
    return sum(tensor.numel() * tensor.element_size() for tensor in named_state(module).values())


def largest_batch(memory: Memory, kept: Kept, recompute: str, room: float, devices: int) -> int:
    """Items of a micro-batch, over all devices, for which `room` bytes on each suffice; 0 if not even one fits."""
    free = USABLE * room - memory.fixed
    return max(0, int(free // kept.activations(recompute))) * devices


def checkpoint_bytes(module: nn.Module, claims: Sequence[Claim], config: Config, rivals: Sequence[Claim] = ()) -> int:
    """Trained weights, moments, average, and the second player's: what one checkpoint takes on the disk."""
    rival = FLOAT * sum(one.parameter.numel() for one in rivals) + _moments(rivals)
    return _state(module) * (2 if config.optim.ema > 0 else 1) + _moments(claims) + rival


def disk_bytes(checkpoint: int, config: Config) -> int:
    """All checkpoints of the run at their most: those kept, the best, the one being written, and the archives (whose
    files are links at first, but stay when the checkpoint that they came from is pruned)."""
    plan = config.train
    written = -(-plan.steps // plan.save_every)
    archives = min(plan.keep_archives, plan.steps // plan.archive_every) if plan.archive_every else 0
    return checkpoint * (min(plan.keep, written) + 2 + archives)

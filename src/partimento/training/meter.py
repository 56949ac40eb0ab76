"""Figures of the steps since the last line of the log, added up on the device and read in one transfer.

Reading a number makes the host wait until the device has done everything before it. So nothing of a step is read: sums
stay where they were made, and `read` brings all of them over at once. Skipped steps are not in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

STEPS, LOSS, NORM = "steps", "loss", "norm"
SMALL, BIG = "noise_small", "noise_big"
"""Squared gradient norms: of the first micro-batch of each step, and of the step."""


class Meter:
    """Sums by name, each a number or a list (of tensors with one dimension). The layout is fixed by the first step."""

    def __init__(self) -> None:
        self._sizes: dict[str, int | None] = {}
        self._sums: Tensor | None = None

    def add(self, loss: Tensor, norm: Tensor, sums: Mapping[str, Tensor], bad: Tensor) -> None:
        """One step: its loss summed over the tokens, its gradient norm, and the sums of the task; all on one device."""
        named = dict(sorted({STEPS: torch.ones_like(loss), LOSS: loss, NORM: norm, **sums}.items()))
        self._sizes = {name: len(value) if value.ndim else None for name, value in named.items()}
        flat = torch.cat([value.detach().reshape(-1).to(_wide(loss.device)) for value in named.values()])
        flat = torch.where(bad, torch.zeros_like(flat), flat)  # a product with zero would keep a NaN
        self._sums = flat if self._sums is None else self._sums + flat

    def read(self, figures: Tensor) -> tuple[dict[str, Any], list[float]]:
        """The sums by name ({} where no step was added) and the values of `figures`, in one transfer. Begins anew."""
        if self._sums is None:
            return {}, figures.tolist()
        values = torch.cat([self._sums, figures.to(self._sums)]).tolist()
        found: dict[str, Any] = {}
        place = 0
        for name, size in self._sizes.items():
            found[name] = values[place] if size is None else values[place : place + size]
            place += size or 1
        self._sums = None
        return found, values[place:]

    def state(self) -> dict[str, Tensor]:
        """{"meter.NAME": tensor} of what was added since the last reading."""
        if self._sums is None:
            return {}
        parts = self._sums.split([size or 1 for size in self._sizes.values()])
        named = zip(self._sizes.items(), parts, strict=True)
        return {f"meter.{name}": part.reshape(() if size is None else (size,)) for (name, size), part in named}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """The inverse of `state`."""
        named = {name[6:]: tensor for name, tensor in sorted(tensors.items()) if name.startswith("meter.")}
        # Narrowed first: a device without float64 does not even take one.
        mine = {name: tensor.to(_wide(device)).to(device) for name, tensor in named.items()}
        self._sizes = {name: len(value) if value.ndim else None for name, value in mine.items()}
        self._sums = torch.cat([value.reshape(-1) for value in mine.values()]) if mine else None


def _wide(device: torch.device) -> torch.dtype:
    """float64 where the device has it: thousands of tokens times hundreds of steps outgrow float32's 24 bits."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32

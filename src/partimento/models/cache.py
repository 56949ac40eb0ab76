"""Keys and values of the steps that were already computed: buffers of a fixed size, filled from the front.

Two ways to fill them. `GrowingCache` counts in Python and gives attention the filled part only: on a CPU a thousand
empty slots cost as much as a thousand full ones. `StaticCache` counts in a tensor and gives all slots with a mask, so
that every step has the same shapes and holds no number of the host: what compilers, CUDA graphs and TPUs need.

Shapes: B batch, G key-value heads, S new steps, P slots, E head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from partimento.models.layers import check_positions


class KVCache(ABC):
    """Self-attention keys and values [B, G, P, E] of every layer, and those of its memory.

    The decoder asks where the next steps stand (`place`), every layer writes there, and the decoder moves on
    (`advance`), once per forward.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        kv_heads: int,
        positions: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.positions = positions
        shape = (batch, kv_heads, positions, head_width)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.memory: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @abstractmethod
    def reset(self) -> None:
        """Forgets the steps; the memory stays, it does not depend on them."""

    @abstractmethod
    def place(self, steps: int) -> int | Tensor:
        """Positions of the next S steps: the first as an integer, or all of them as a tensor [S]."""

    @abstractmethod
    def write(
        self, layer: int, key_BGSE: Tensor, value_BGSE: Tensor, place: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Stores S steps at their `place`; returns the keys and values to attend to (no copy) and the mask_SP of the
        slots that each step may see. None: all of them if S is 1, else S is all there is and attention is causal."""

    @abstractmethod
    def advance(self, steps: int) -> None: ...


class GrowingCache(KVCache):
    """`length` is the number of filled slots. `place` raises MODEL004 when the steps do not fit."""

    length = 0

    def reset(self) -> None:
        self.length = 0

    def place(self, steps: int) -> int:
        check_positions(self.length, steps, self.positions)
        return self.length

    def write(
        self, layer: int, key_BGSE: Tensor, value_BGSE: Tensor, place: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        assert isinstance(place, int)
        steps = key_BGSE.shape[2]
        end = place + steps
        self.keys[layer][:, :, place:end] = key_BGSE
        self.values[layer][:, :, place:end] = value_BGSE
        mask_SP = None
        if steps > 1 and place > 0:
            # is_causal aligns queries to the first keys, which is wrong behind a cache.
            mask_SP = torch.ones(steps, end, dtype=torch.bool, device=key_BGSE.device).tril(place)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end], mask_SP

    def advance(self, steps: int) -> None:
        self.length += steps


class StaticCache(KVCache):
    """`length_1`, int64 [1] on the device, is the number of filled slots.

    The steps must fit, which is for the caller to see to: a device does not raise. Steps may be padded at the end:
    `move_to` takes the padding back, and what it wrote is overwritten before any step may see it.
    """

    def __init__(self, *, device: torch.device | str, **sizes: Any) -> None:
        super().__init__(device=device, **sizes)
        self.length_1 = torch.zeros(1, dtype=torch.int64, device=device)

    def reset(self) -> None:
        self.move_to(0)

    def place(self, steps: int) -> Tensor:
        return self.length_1 + torch.arange(steps, device=self.length_1.device)

    def write(
        self, layer: int, key_BGSE: Tensor, value_BGSE: Tensor, place: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        assert isinstance(place, Tensor)
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, place, key_BGSE.to(keys.dtype))
        values.index_copy_(2, place, value_BGSE.to(values.dtype))
        return keys, values, torch.arange(self.positions, device=place.device) <= place[:, None]

    def advance(self, steps: int) -> None:
        self.length_1.add_(steps)

    def move_to(self, length: int) -> None:
        # A copy and not a fill: XLA makes the number of a fill part of the program, and compiles again for the next.
        self.length_1.copy_(torch.tensor([length]))

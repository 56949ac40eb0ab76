"""Keys and values of the steps that were already computed: static buffers, filled from the front.

The length is a Python integer, so reading it never waits for a device. Attention is given the filled part only: on a
CPU a thousand empty slots cost as much as a thousand full ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from partimento.models.layers import check_positions


class KVCache:
    """Self-attention keys and values [layers, 2, B, kv_heads, positions, E], and those of the memory per layer.

    `length` is the number of filled positions. The decoder advances it once per forward; layers only write.
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
        self.length = 0
        shape = (batch, kv_heads, positions, head_width)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.memory: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def write(self, layer: int, key_BGSE: Tensor, value_BGSE: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the keys and values of the next S steps, and returns those of all steps so far (views, no copy)."""
        end = self.length + key_BGSE.shape[2]
        check_positions(self.length, key_BGSE.shape[2], self.positions)
        self.keys[layer][:, :, self.length : end] = key_BGSE
        self.values[layer][:, :, self.length : end] = value_BGSE
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, steps: int) -> None:
        self.length += steps

    def reset(self) -> None:
        """Forgets the steps; the memory stays, it does not depend on them."""
        self.length = 0

"""Self and cross attention on F.scaled_dot_product_attention.

Shapes: B batch, S query steps, M memory steps, D model width, H query heads, G key-value heads, E head width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from partimento.models import causal
from partimento.models.cache import KVCache
from partimento.models.layers import RMSNorm, Rotary
from partimento.models.linear import Linear


class SelfAttention(nn.Module):
    """Causal self attention with grouped queries, queries keys and values from one matrix (q, k, v rows in order).

    `scale` multiplies the scores; None is 1 / sqrt(E). With `qk_norm_eps` every query and key head passes an RMS norm
    with one gain per head channel, before the rotation (Henry et al. 2020), which keeps the scores from growing.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        *,
        bias: bool,
        scale: float | None,
        qk_norm_eps: float | None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.scale = heads, kv_heads, head_width, scale
        self.qkv = Linear(width, (heads + 2 * kv_heads) * head_width, bias=bias)
        self.qkv.parts = (heads * head_width, kv_heads * head_width, kv_heads * head_width)
        self.out = Linear(heads * head_width, width, bias=bias)
        self.query_norm = None if qk_norm_eps is None else RMSNorm(head_width, qk_norm_eps)
        self.key_norm = None if qk_norm_eps is None else RMSNorm(head_width, qk_norm_eps)

    def forward(
        self, x_BSD: Tensor, rotary: Rotary | None, start: int | Tensor, cache: KVCache | None, layer: int
    ) -> Tensor:
        batch, steps = x_BSD.shape[:2]
        heads = self.qkv(x_BSD).view(batch, steps, self.heads + 2 * self.kv_heads, self.head_width)
        query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotary is not None:
            query, key = rotary(query, start), rotary(key, start)
        if cache is None and causal.suits(query, key):
            scale = self.head_width**-0.5 if self.scale is None else self.scale
            return self.out(causal.causal_attention(query, key, value, scale).flatten(2))
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        mask_SP = None
        if cache is not None:
            key, value, mask_SP = cache.write(layer, key, value, start)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask_SP,
            is_causal=mask_SP is None and steps > 1,
            scale=self.scale,
            enable_gqa=self.kv_heads != self.heads,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, self.heads * self.head_width))


class CrossAttention(nn.Module):
    """Attention to a memory (encoded text). No positions are applied to it."""

    def __init__(
        self,
        width: int,
        memory_width: int,
        heads: int,
        kv_heads: int,
        head_width: int,
        *,
        bias: bool,
        scale: float | None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.scale = heads, kv_heads, head_width, scale
        self.query = Linear(width, heads * head_width, bias=bias)
        self.key_value = Linear(memory_width, 2 * kv_heads * head_width, bias=bias)
        self.key_value.parts = (kv_heads * head_width, kv_heads * head_width)
        self.out = Linear(heads * head_width, width, bias=bias)

    def forward(self, x_BSD: Tensor, memory: tuple[Tensor, Tensor], mask_B11M: Tensor | None) -> Tensor:
        """`memory` is what `project` gave; the mask is True where the memory may be attended, never empty in a row."""
        batch, steps = x_BSD.shape[:2]
        query = self.query(x_BSD).view(batch, steps, self.heads, self.head_width).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            query, *memory, attn_mask=mask_B11M, scale=self.scale, enable_gqa=self.kv_heads != self.heads
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, self.heads * self.head_width))

    def project(self, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, M, E] of a memory: computed once per generation."""
        batch, length = memory_BMD.shape[:2]
        heads = self.key_value(memory_BMD).view(batch, length, 2, self.kv_heads, self.head_width)
        key, value = heads.permute(2, 0, 3, 1, 4)
        return key, value


class Memory:
    """A memory and its mask, ready for attention.

    A row whose mask is empty (nothing to attend to) contributes zero. Backends disagree about softmax over nothing
    (zero, NaN), so such a row attends to everything and its result is then multiplied by zero, gradient included.
    """

    def __init__(self, memory_BMD: Tensor, mask_BM: Tensor | None) -> None:
        self.memory_BMD = memory_BMD
        self.mask_B11M: Tensor | None = None
        self.filled_B11: Tensor | None = None
        if mask_BM is not None:
            mask_BM = mask_BM.bool()
            filled_B1 = mask_BM.any(dim=1, keepdim=True)
            self.mask_B11M = (mask_BM | ~filled_B1)[:, None, None]
            self.filled_B11 = filled_B1[:, :, None]

    def keys_values(self, layer: int, cross: CrossAttention, cache: KVCache | None) -> tuple[Tensor, Tensor]:
        if cache is None:
            return cross.project(self.memory_BMD)
        known = cache.memory[layer]
        if known is None:
            known = cache.memory[layer] = cross.project(self.memory_BMD)
        return known

    def silence_empty(self, mixed_BSD: Tensor) -> Tensor:
        return mixed_BSD if self.filled_B11 is None else mixed_BSD * self.filled_B11

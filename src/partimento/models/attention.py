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


class _SelfHeads(nn.Module):
    """Queries, keys and values of the same rows, from one matrix (q, k, v rows in order), grouped.

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

    def project(self, x_BSD: Tensor, rotary: Rotary | None, start: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """query [B, S, H, E], key and value [B, S, G, E]: normed and turned."""
        batch, steps = x_BSD.shape[:2]
        heads = self.qkv(x_BSD).view(batch, steps, self.heads + 2 * self.kv_heads, self.head_width)
        query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotary is not None:
            query, key = rotary(query, start), rotary(key, start)
        return query, key, value


class SelfAttention(_SelfHeads):
    """Causal self attention of the decoder, with or without a cache."""

    def forward(
        self, x_BSD: Tensor, rotary: Rotary | None, start: int | Tensor, cache: KVCache | None, layer: int
    ) -> Tensor:
        batch, steps = x_BSD.shape[:2]
        query, key, value = self.project(x_BSD, rotary, start)
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


class TextAttention(_SelfHeads):
    """Self attention of a text in both directions. The mask is True where there is text, never empty in a row."""

    def forward(self, x_BMD: Tensor, rotary: Rotary, mask_B11M: Tensor) -> Tensor:
        batch, steps = x_BMD.shape[:2]
        query, key, value = (x.transpose(1, 2) for x in self.project(x_BMD, rotary, 0))
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_B11M, scale=self.scale, enable_gqa=self.kv_heads != self.heads
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, self.heads * self.head_width))


class CrossAttention(nn.Module):
    """Attention to a memory (encoded text).

    With a `rotary`, queries turn by the positions of their rows and keys by those of the text, 0..M-1, as in Dia's
    weights of April 2025; those of June 2025, and MusicGen, have no positions here.
    """

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

    def forward(
        self,
        x_BSD: Tensor,
        memory: tuple[Tensor, Tensor],
        mask_B11M: Tensor | None,
        rotary: Rotary | None,
        start: int | Tensor,
    ) -> Tensor:
        """`memory` is what `project` gave; the mask is True where the memory may be attended, never empty in a row."""
        batch, steps = x_BSD.shape[:2]
        query = self.query(x_BSD).view(batch, steps, self.heads, self.head_width)
        if rotary is not None:
            query = rotary(query, start)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            *memory,
            attn_mask=mask_B11M,
            scale=self.scale,
            enable_gqa=self.kv_heads != self.heads,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, self.heads * self.head_width))

    def project(self, memory_BMD: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, M, E] of a memory: computed once per generation."""
        batch, length = memory_BMD.shape[:2]
        key, value = self.key_value(memory_BMD).view(batch, length, 2, self.kv_heads, self.head_width).unbind(2)
        if rotary is not None:
            key = rotary(key, 0)
        return key.transpose(1, 2), value.transpose(1, 2)


def readable(mask_BM: Tensor) -> Tensor:
    """[B, 1, 1, M] for attention, True where there is something to read; a row without anything reads everything.

    Backends disagree about softmax over nothing (zero, NaN), so that such a row must be read, and what was read of it
    then be ignored.
    """
    mask_BM = mask_BM.bool()
    return (mask_BM | ~mask_BM.any(dim=1, keepdim=True))[:, None, None]


class Memory:
    """A memory, its mask and its positions (`rotary`, see CrossAttention), ready for attention.

    A row whose mask is empty contributes zero: its result is multiplied by zero, gradient included.
    """

    def __init__(self, memory_BMD: Tensor, mask_BM: Tensor | None, rotary: Rotary | None = None) -> None:
        self.memory_BMD, self.rotary = memory_BMD, rotary
        self.mask_B11M: Tensor | None = None
        self.filled_B11: Tensor | None = None
        if mask_BM is not None:
            self.mask_B11M = readable(mask_BM)
            self.filled_B11 = mask_BM.bool().any(dim=1)[:, None, None]

    def read(
        self, layer: int, cross: CrossAttention, x_BSD: Tensor, start: int | Tensor, cache: KVCache | None
    ) -> Tensor:
        """What the rows at `start` read of it in a layer, [B, S, D]."""
        mixed_BSD = cross(x_BSD, self._keys_values(layer, cross, cache), self.mask_B11M, self.rotary, start)
        return mixed_BSD if self.filled_B11 is None else mixed_BSD * self.filled_B11

    def _keys_values(self, layer: int, cross: CrossAttention, cache: KVCache | None) -> tuple[Tensor, Tensor]:
        if cache is None:
            return cross.project(self.memory_BMD, self.rotary)
        known = cache.memory[layer]
        if known is None:
            known = cache.memory[layer] = cross.project(self.memory_BMD, self.rotary)
        return known

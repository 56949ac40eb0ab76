"""Llama 3 as transformers has it: on text the logits are those of LlamaForCausalLM, bit for bit in float32.

It is the backbone of the mixture (`mixture`), which lets rows of audio through the same blocks. Text goes through
`functional.linear`, which is what the stock model calls; rows of audio go through the layers themselves, which may be
faster and round otherwise (`linear`).
Shapes: B batch, M text steps, P steps before them, D width, H heads, G key-value heads, E head width, V ids, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.models.linear import Linear
from partimento.models.llama_config import PLACES, SCALING, LlamaConfig, places

__all__ = ["PLACES", "Llama", "LlamaBlock", "LlamaConfig", "Turn", "attend", "places"]


def frequencies(config: LlamaConfig) -> Tensor:
    """[E / 2] float32: radians a position, of every pair of a head; operation by operation as transformers does.

    Scaling llama3: wavelengths above original / low_freq_factor are `factor` times as long, those below original /
    high_freq_factor as they were, and between them the two frequencies are mixed.
    """
    turns_E = 1.0 / config.rope_theta ** (torch.arange(0, config.head_width, 2, dtype=torch.float) / config.head_width)
    if config.rope_scaling is None:
        return turns_E
    factor, low, high, original = (config.rope_scaling[name] for name in SCALING)
    wave_E = 2 * math.pi / turns_E
    slow_E = torch.where(wave_E > original / low, turns_E / factor, turns_E)
    share_E = (original / wave_E - low) / (high - low)
    mixed_E = (1 - share_E) * slow_E / factor + share_E * slow_E
    between_E = ~(wave_E < original / high) & ~(wave_E > original / low)
    return torch.where(between_E, mixed_E, slow_E)


@dataclass(frozen=True)
class Turn:
    """Cosines and sines [B or 1, 1, S, E] of steps at their positions."""

    cosine: Tensor
    sine: Tensor

    def __call__(self, x_BHSE: Tensor) -> Tensor:
        """Turned, computed in float32, with the halves of a head as pairs."""
        first, second = x_BHSE.chunk(2, dim=-1)
        return (x_BHSE * self.cosine + torch.cat((-second, first), dim=-1) * self.sine).to(x_BHSE.dtype)


class LlamaNorm(nn.Module):
    """x / rms(x) * gain, in float32 but for the gain: each operation as in the stock model."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class LlamaBlock(nn.Module):
    """x + attention(norm(x)), x + feed-forward(norm(x)), of text."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, wide, head = config.width, config.feedforward, config.head_width
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, head
        self.attention_norm = LlamaNorm(width, config.norm_eps)
        self.query = Linear(width, config.heads * head, bias=False)
        self.key = Linear(width, config.kv_heads * head, bias=False)
        self.value = Linear(width, config.kv_heads * head, bias=False)
        self.out = Linear(config.heads * head, width, bias=False)
        self.feedforward_norm = LlamaNorm(width, config.norm_eps)
        self.gate = Linear(width, wide, bias=False)
        self.up = Linear(width, wide, bias=False)
        self.down = Linear(wide, width, bias=False)

    def keys_values(self, normed_BMD: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """[B, G, M, E] each, the keys turned."""
        key, value = (self._heads(_stock(layer, normed_BMD)) for layer in (self.key, self.value))
        return turn(key), value

    def forward(
        self, x_BMD: Tensor, turn: Turn, before: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x, keys, values) of these steps. They see themselves and what is before them; with `before`, keys and values
        [B, G, P, E] of other steps, what `mask` [B, 1, M, P + M] says."""
        normed_BMD = self.attention_norm(x_BMD)
        query = turn(self._heads(_stock(self.query, normed_BMD)))
        key, value = self.keys_values(normed_BMD, turn)
        keys, values = key, value
        if before is not None:
            keys, values = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
        mixed = attend(query, keys, values, mask)
        x_BMD = x_BMD + _stock(self.out, mixed)
        normed_BMD = self.feedforward_norm(x_BMD)
        hidden = functional.silu(_stock(self.gate, normed_BMD)) * _stock(self.up, normed_BMD)
        return x_BMD + _stock(self.down, hidden), key, value

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


class Llama(nn.Module):
    """The stock model, of text alone. Weights are drawn N(0, 0.02), gains 1; those that count are loaded."""

    bits_E: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(LlamaBlock(config) for _ in range(config.layers))
        self.norm = LlamaNorm(config.width, config.norm_eps)
        self.head = Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        # As integers, or a model that is moved to bfloat16 would turn by other angles.
        self.register_buffer("bits_E", frequencies(config).view(torch.int32), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.02)

    def turn(self, positions_BS: Tensor) -> Turn:
        """Of steps at these positions, any integer type."""
        angle = positions_BS[:, None, :, None].float() * self.bits_E.view(torch.float32)
        angle = torch.cat((angle, angle), dim=-1)
        return Turn(angle.cos(), angle.sin())

    def forward(self, ids_BM: Tensor) -> Tensor:
        """ids [B, M] -> logits [B, M, V]. Texts may be padded at their end: no step sees a later one."""
        x_BMD, turn = self.embedding(ids_BM), self.turn(_count(ids_BM))
        for block in self.blocks:
            x_BMD, _, _ = block(x_BMD, turn)
        return self.logits(x_BMD)

    def logits(self, x_BMD: Tensor) -> Tensor:
        return _stock(self.head, self.norm(x_BMD))

    def read(self, ids_BM: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values [B, G, M, E] of every layer: what is needed of a text that others read."""
        x_BMD, turn = self.embedding(ids_BM), self.turn(_count(ids_BM))
        keys_L, values_L = [], []
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, LlamaBlock)
            if layer < self.config.layers - 1:
                x_BMD, key, value = block(x_BMD, turn)
            else:
                key, value = block.keys_values(block.attention_norm(x_BMD), turn)
            keys_L.append(key)
            values_L.append(value)
        return keys_L, values_L


def attend(query_BHSE: Tensor, key_BGPE: Tensor, value_BGPE: Tensor, mask: Tensor | None) -> Tensor:
    """[B, S, H * E]. Without a mask a step sees all up to itself; or all there is, if there are more keys."""
    repeat, steps = query_BHSE.shape[1] // key_BGPE.shape[1], query_BHSE.shape[2]
    if mask is not None and repeat > 1 and steps == 1:  # queries of one key are steps that see the same
        heads = query_BHSE.shape[1]
        query_BGRE = query_BHSE.unflatten(1, (-1, repeat)).flatten(2, 3)
        mixed = functional.scaled_dot_product_attention(query_BGRE, key_BGPE, value_BGPE, attn_mask=mask)
        return mixed.flatten(1, 2).unflatten(1, (1, heads)).flatten(2)
    if mask is not None and query_BHSE.is_cuda and repeat > 1:  # masked, only equal heads have a fast kernel there
        key_BGPE, value_BGPE = (x.repeat_interleave(repeat, dim=1) for x in (key_BGPE, value_BGPE))
        repeat = 1
    mixed = functional.scaled_dot_product_attention(
        query_BHSE,
        key_BGPE,
        value_BGPE,
        attn_mask=mask,
        is_causal=mask is None and steps == key_BGPE.shape[2] > 1,
        enable_gqa=repeat > 1,
    )
    return mixed.transpose(1, 2).flatten(2)


def _stock(layer: nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight)


def _count(ids_BM: Tensor) -> Tensor:
    return torch.arange(ids_BM.shape[1], device=ids_BM.device)[None]

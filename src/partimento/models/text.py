"""Dia's text encoder: bytes (and tag tokens) -> memory_BMD for the decoder's cross attention.

Embedding -> pre-norm blocks of attention in both directions with rotary positions, and SwiGLU -> norm.
Shapes: B batch, M text steps, D width of the encoder.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento.errors import PartimentoError
from partimento.models.attention import TextAttention, readable
from partimento.models.layers import FeedForward, RMSNorm, Rotary, check_positions


@dataclass(frozen=True)
class TextConfig:
    """The architecture, complete: every None but that of the scale is replaced by the value it stands for."""

    vocabulary: int
    """ids of a text: 256 bytes, and one for each tag token"""
    length: int
    """ids of a text at most"""
    width: int
    layers: int
    heads: int
    kv_heads: int | None = None
    """key-value heads, each shared by heads / kv_heads query heads; None: as many as heads"""
    head_width: int | None = None
    """None: width / heads"""
    feedforward: int | None = None
    """None: 8 / 3 * width rounded up to a multiple of 32"""
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    attention_scale: float | None = None
    """factor of the attention scores; None: 1 / sqrt(head_width)"""
    qk_norm: bool = True
    dropout: float = 0.0
    """after the embedding and on the output of every attention and feedforward, in training only"""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "length", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise _invalid(f"{name} = {getattr(self, name)} is below 1")
        if self.head_width is None and self.width % self.heads:
            raise _invalid(f"width {self.width} is not a multiple of heads {self.heads}")
        resolved = {
            "kv_heads": self.heads,
            "head_width": self.width // self.heads,
            "feedforward": math.ceil(self.width * 8 / 3 / 32) * 32,
        }
        for name, value in resolved.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in resolved:
            if getattr(self, name) < 1:
                raise _invalid(f"{name} = {getattr(self, name)} is below 1")
        if self.heads % self.groups:
            raise _invalid(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head % 2:
            raise _invalid(f"rotary positions need an even head width, not {self.head}")
        if not 0 <= self.dropout < 1:
            raise _invalid(f"dropout {self.dropout} is not in [0, 1)")

    @property
    def groups(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head(self) -> int:
        return self.head_width or self.width // self.heads

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TextConfig:
        """Raises MODEL021 for a key that this version does not know, or one that is missing."""
        try:
            return cls(**stored)
        except TypeError as error:
            raise _invalid(str(error)) from error


class TextBlock(nn.Module):
    """x + attention(norm(x)), x + feedforward(norm(x))."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        assert config.feedforward  # resolved by the config
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = TextAttention(
            config.width,
            config.heads,
            config.groups,
            config.head,
            bias=False,
            scale=config.attention_scale,
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.feedforward_norm = RMSNorm(config.width, config.norm_eps)
        self.feedforward = FeedForward(config.width, config.feedforward, "swiglu", bias=False)
        self.dropout = config.dropout

    def forward(self, x_BMD: Tensor, rotary: Rotary, mask_B11M: Tensor) -> Tensor:
        x_BMD = x_BMD + self._drop(self.attention(self.attention_norm(x_BMD), rotary, mask_B11M))
        return x_BMD + self._drop(self.feedforward(self.feedforward_norm(x_BMD)))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout) if self.training and self.dropout else x


class TextEncoder(nn.Module):
    """The encoder. Its weights are drawn by `initialise.by_fan_in`."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.rotary = Rotary(config.length, config.head, config.rope_theta)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)

    @property
    def width(self) -> int:
        """Of the memory."""
        return self.config.width

    def forward(self, text_BM: Tensor, mask_BM: Tensor) -> Tensor:
        """ids [B, M] and their mask (True where there is text) -> memory_BMD.

        Texts are padded behind. What stands at a masked place is of no meaning, and finite, in a text that is masked
        altogether too: who reads the memory reads it with the mask.
        Raises MODEL004 (longer than `length`), MODEL020 (id outside the vocabulary, checked on a CPU).
        """
        self._check(text_BM)
        x_BMD = functional.embedding(text_BM, self.embedding)
        if self.training and self.config.dropout:
            x_BMD = functional.dropout(x_BMD, self.config.dropout)
        mask_B11M = readable(mask_BM)
        for block in self.blocks:
            x_BMD = block(x_BMD, self.rotary, mask_B11M)
        return self.norm(x_BMD)

    def _check(self, text_BM: Tensor) -> None:
        check_positions(0, text_BM.shape[1], self.config.length)
        if text_BM.is_cpu and not torch.compiler.is_compiling():
            lowest, highest = text_BM.aminmax()
            known = self.config.vocabulary
            if lowest < 0 or highest >= known:
                raise PartimentoError(
                    "MODEL020",
                    f"the text holds ids {int(lowest)}..{int(highest)}, the encoder knows 0..{known - 1}",
                    next="encode the words with the text coder that belongs to the model",
                )


def _invalid(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL021",
        "the text model cannot be built from this configuration",
        why=why,
        next="correct the [model] section",
    )

"""The architecture of a code decoder: sizes and choices, complete and checked."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from partimento.errors import PartimentoError

_CHOICES = {
    "activation": ("gelu", "swiglu"),
    "norm": ("layer", "rms"),
    "positions": ("rotary", "sinusoidal", "learned"),
}


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture, complete: every None is replaced by the value it stands for, and so is what `to_json` gives."""

    codebooks: int
    rows: int
    """embedding rows a codebook: codes and specials"""
    outputs: int
    """logits a codebook: codes, and EOS if the model has one"""
    width: int
    layers: int
    heads: int
    kv_heads: int | None = None
    """key-value heads, each shared by heads / kv_heads query heads; None: as many as heads"""
    head_width: int | None = None
    """None: width / heads"""
    feedforward: int | None = None
    """None: 4 * width for GELU, 8 / 3 * width rounded up to a multiple of 32 for SwiGLU (as many parameters)"""
    activation: str = "swiglu"
    norm: str = "rms"
    norm_eps: float = 1e-5
    positions: str = "rotary"
    max_positions: int = 1024
    rope_theta: float = 10000.0
    qk_norm: bool = True
    dropout: float = 0.0
    """after the input embedding and on the output of every attention and feedforward, in training only"""
    attention_scale: float | None = None
    """factor of the attention scores; None: 1 / sqrt(head_width)"""
    bias: bool = False
    """biases in the linear layers of the blocks (a layer norm has its own always)"""
    cross_width: int | None = None
    """width of the memory for cross attention; None: no cross attention"""
    cross_heads: int | None = None
    """None: as many as heads"""
    cross_kv_heads: int | None = None
    """None: as many as cross_heads"""
    cross_head_width: int | None = None
    """None: head_width"""
    cross_attention_rope: bool = False
    """rotate queries and keys of the cross attention too: Dia's first weights. All shapes are the same without"""
    tags: int = 0
    """number of tags of the tag condition; 0: unconditional"""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _invalid(f"{name} = {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("codebooks", "rows", "outputs", "width", "layers", "heads", "max_positions"):
            if getattr(self, name) < 1:
                raise _invalid(f"{name} = {getattr(self, name)} is below 1")
        if self.head_width is None and self.width % self.heads:
            raise _invalid(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.feedforward is None:
            swiglu = math.ceil(self.width * 8 / 3 / 32) * 32
            self._resolve("feedforward", swiglu if self.activation == "swiglu" else 4 * self.width)
        self._resolve("head_width", self.width // self.heads)
        self._resolve("kv_heads", self.heads)
        self._resolve("cross_heads", self.heads)
        self._resolve("cross_kv_heads", self.cross_heads)
        self._resolve("cross_head_width", self.head_width)
        for name in ("head_width", "kv_heads", "feedforward", "cross_heads", "cross_kv_heads", "cross_head_width"):
            if getattr(self, name) < 1:
                raise _invalid(f"{name} = {getattr(self, name)} is below 1")
        for prefix in ("", "cross_"):
            heads, groups = getattr(self, f"{prefix}heads"), getattr(self, f"{prefix}kv_heads")
            if heads % groups:
                raise _invalid(f"{prefix}heads {heads} is not a multiple of {prefix}kv_heads {groups}")
        for rotated, width in (
            (self.positions == "rotary", self.head),
            (self.cross_attention_rope, self.cross_head_width or 0),
        ):
            if rotated and width % 2:
                raise _invalid(f"rotary positions need an even head width, not {width}")
        if not 0 <= self.dropout < 1:
            raise _invalid(f"dropout {self.dropout} is not in [0, 1)")

    def _resolve(self, name: str, value: int | None) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def head(self) -> int:
        return self.head_width or self.width // self.heads

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> DecoderConfig:
        """Raises MODEL001 for a key that this version does not know, or one that is missing."""
        try:
            return cls(**stored)
        except TypeError as error:
            raise _invalid(str(error)) from error


def _invalid(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL001",
        "the decoder cannot be built from this configuration",
        why=why,
        next="correct the [model] section",
    )

"""What a mixture is: its Llama, its grids and its experts, complete and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from partimento.models.experts import ExpertConfig, invalid
from partimento.models.llama_config import LlamaConfig

Vocabulary = Literal["own", "shared"]
TrainBackbone = Literal["none", "head", "all"]


@dataclass(frozen=True)
class MixtureConfig:
    """codebooks, rows (input ids a codebook, specials counted) and outputs (codes, and EOS if there is one) are as in a
    DecoderConfig. vocabulary "own" has rows for every codebook, "shared" one block for all, for flat grids. The input
    row of `pad_row`, the id of PAD, is a constant zero. max_positions counts rows of audio. Raises MODEL043."""

    llama: LlamaConfig
    codebooks: int
    rows: int
    outputs: int
    pad_row: int
    vocabulary: Vocabulary = "own"
    max_positions: int = 1024
    experts: ExpertConfig = field(default_factory=ExpertConfig)

    def __post_init__(self) -> None:
        if min(self.codebooks, self.rows, self.outputs, self.max_positions) < 1 or not 0 <= self.pad_row < self.rows:
            raise invalid("codebooks, rows, outputs and max_positions must be at least 1, and pad_row one of the rows")
        if self.vocabulary not in get_args(Vocabulary):
            raise invalid(f"vocabulary {self.vocabulary!r} is neither own nor shared")

    @property
    def blocks(self) -> int:
        """Of ids: one a codebook, or one."""
        return self.codebooks if self.vocabulary == "own" else 1

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MixtureConfig:
        """Raises MODEL040 (of the Llama), MODEL043 for what this version does not know, or that is missing."""
        told = dict(stored)
        if "llama" not in told or "experts" not in told:
            raise invalid("it must have a llama and experts")
        llama, experts = LlamaConfig.from_json(told.pop("llama")), ExpertConfig.from_json(told.pop("experts"))
        try:
            return cls(llama=llama, experts=experts, **told)
        except TypeError as error:
            raise invalid(str(error)) from error

"""What a Llama is: sizes and choices, complete and checked, and its names in transformers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partimento.errors import PartimentoError

_SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feedforward": "intermediate_size",
}
SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_BLOCK = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "feedforward_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
PLACES = {
    "embedding.weight": "model.embed_tokens.weight",
    **{f"blocks.{{}}.{ours}.weight": f"model.layers.{{}}.{theirs}.weight" for ours, theirs in _BLOCK.items()},
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
"""Names of parameters, ours to transformers'; {} is the number of the block."""


@dataclass(frozen=True)
class LlamaConfig:
    """The architecture. `rope_scaling` is None, or has the four numbers of rope_type llama3 (Llama 3.1, 3.2); `bos` is
    the id that every text begins with; with `tied` the head is the embedding."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    feedforward: int
    norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, float] | None
    tied: bool
    max_positions: int
    bos: int

    def __post_init__(self) -> None:
        for name in (*_SIZES, "kv_heads", "head_width", "max_positions"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise _unknown(f"{name} = {value!r} is not a number of at least 1")
        if self.heads % self.kv_heads:
            raise _unknown(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head_width % 2:
            raise _unknown(f"rotary positions need an even head width, not {self.head_width}")
        if type(self.bos) is not int or not 0 <= self.bos < self.vocabulary:
            raise _unknown(f"bos = {self.bos!r} is not one id of the {self.vocabulary}")
        numbers = {"norm_eps": self.norm_eps, "rope_theta": self.rope_theta, **(self.rope_scaling or {})}
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
                raise _unknown(f"{name} = {number!r} is not a number above 0")
        if self.rope_scaling is not None and set(self.rope_scaling) != set(SCALING):
            raise _unknown(f"rope_scaling has {sorted(self.rope_scaling)}, and needs {sorted(SCALING)}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LlamaConfig:
        """Raises MODEL040 for a key that this version does not know, or one that is missing."""
        try:
            return cls(**stored)
        except TypeError as error:
            raise _unknown(str(error)) from error

    @classmethod
    def of_transformers(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """From the contents of a config.json, as transformers 4 or 5 writes it; what is left out is its default.

        Raises MODEL040 for what is not modelled here: another architecture, biases, another activation, rotary
        positions of another type, quantized weights, no BOS.
        """
        if config.get("model_type") != "llama":
            raise _unknown(f"model_type is {config.get('model_type')!r}, not 'llama'")
        names = config.get("architectures") or ["LlamaForCausalLM"]
        if "LlamaForCausalLM" not in names:
            raise _unknown(f"architectures is {names}, not LlamaForCausalLM")
        plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "quantization_config": None}
        for name, value in plain.items():
            if config.get(name, value) != value:
                raise _unknown(f"{name} is {config[name]!r}, and only {value!r} is modelled")
        missing = [theirs for theirs in (*_SIZES.values(), "bos_token_id") if config.get(theirs) is None]
        if missing:
            raise _unknown(f"{', '.join(missing)} missing")
        sizes = {ours: config[theirs] for ours, theirs in _SIZES.items()}
        positions = config.get("max_position_embeddings", 2048)
        theta, scaling = _rope(config, positions)
        return cls(
            **sizes,
            kv_heads=config.get("num_key_value_heads") or sizes["heads"],
            head_width=config.get("head_dim") or sizes["width"] // sizes["heads"],
            norm_eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            tied=bool(config.get("tie_word_embeddings", False)),
            max_positions=positions,
            bos=config["bos_token_id"],
        )


def places(config: LlamaConfig) -> dict[str, str]:
    """Every parameter of a Llama by our name, to transformers' name; the head of a tied one is its embedding."""
    named: dict[str, str] = {}
    for ours, theirs in PLACES.items():
        numbers = range(config.layers) if "{}" in ours else range(1)
        named |= {ours.format(layer): theirs.format(layer) for layer in numbers}
    if config.tied:
        del named["head.weight"]
    return named


def _rope(config: Mapping[str, Any], positions: int) -> tuple[float, dict[str, float] | None]:
    """(theta, scaling) of either layout: rope_parameters, or rope_theta beside rope_scaling."""
    told = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = told.get("rope_type", told.get("type", "default"))
    theta = told.get("rope_theta", config.get("rope_theta", 10000.0))
    if kind not in ("default", "llama3"):
        raise _unknown(f"rotary positions of type {kind!r}; known are default and llama3")
    if told.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise _unknown("rotary positions of a part of each head")
    if kind == "default":
        return theta, None
    told.setdefault("original_max_position_embeddings", positions)
    absent = [name for name in SCALING if name not in told]
    if absent:
        raise _unknown(f"the rotary scaling lacks {', '.join(absent)}")
    return theta, {name: told[name] for name in SCALING}


def _unknown(why: str) -> PartimentoError:
    return PartimentoError(
        "MODEL040",
        "the language model is not one that partimento builds",
        why=why,
        next="take a Llama 3 of transformers (LlamaForCausalLM), with its config.json unchanged",
    )

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_mixture import LLAMA

from partimento.errors import PartimentoError
from partimento.models.llama import Llama, LlamaConfig, places

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
    "bos_token_id": 128000,
    "attention_bias": False,
    "mlp_bias": False,
}
SCALING = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def test_both_layouts_of_config_json_are_one() -> None:
    old = {**CONFIG, "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **SCALING}}
    new = {**CONFIG, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **SCALING}}
    found = LlamaConfig.of_transformers(new)
    assert found == LlamaConfig.of_transformers(old)
    assert found.rope_scaling == SCALING and found.rope_theta == 500000.0 and found.tied and found.bos == 128000
    assert LlamaConfig.from_json(found.to_json()) == found
    plain = LlamaConfig.of_transformers({**CONFIG, "rope_scaling": None, "head_dim": None})
    assert plain.rope_scaling is None and plain.rope_theta == 10000.0 and plain.head_width == 64


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "part"),
        ({"bos_token_id": None}, "bos_token_id"),
        ({"bos_token_id": 128256}, "bos"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "2048"}, "width"),
        ({"num_key_value_heads": 5}, "kv_heads"),
        ({"head_dim": 63}, "even"),
        ({"rms_norm_eps": float("nan")}, "norm_eps"),
    ],
)
def test_what_is_no_llama_of_ours_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(PartimentoError) as caught:
        LlamaConfig.of_transformers({**CONFIG, **change})
    assert caught.value.code == "MODEL040" and word in str(caught.value)


def test_a_description_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(PartimentoError, match="MODEL040"):
        LlamaConfig.from_json({**LLAMA, "window": 4})


@pytest.mark.parametrize("tied", [False, True])
def test_places_name_every_parameter(tied: bool) -> None:
    config = LlamaConfig(**LLAMA | {"tied": tied})
    assert set(places(config)) == {name for name, _ in Llama(config).named_parameters()}
    assert places(config)["blocks.1.down.weight"] == "model.layers.1.mlp.down_proj.weight"


def test_moving_to_bfloat16_turns_by_the_same_angles() -> None:
    llama = Llama(LlamaConfig(**LLAMA))
    positions = torch.arange(100)[None]
    before = llama.turn(positions)
    after = llama.to(torch.bfloat16).turn(positions)
    assert torch.equal(before.cosine, after.cosine) and torch.equal(before.sine, after.sine)

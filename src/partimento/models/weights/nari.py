"""Weights of Dia in nari-labs' own layout, in and out by name.

Their linear layers hold kernels in the order of the axes that are multiplied: queries [D, H, E], attention outputs
[H, E, D], gate and up [D, 2, F], logits [D, K, V]; every codebook has an embedding of its own. config.json has two
forms, of April 2025 ("model", "data") and of June ("encoder_config", which transformers took over).

Facts: github.com/nari-labs/dia, commits 51e5405 (april) and 65028e0 (0626), dia/{config,layers}.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from partimento.models.decoder import DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.text import TextConfig, TextEncoder
from partimento.models.weights.described import (
    MOST_CODEBOOKS,
    MOST_LAYERS,
    Described,
    delays_of,
    identifier,
    number,
    real,
    require,
    section,
)
from partimento.models.weights.dia import (
    BOS,
    DELAYS,
    EOS,
    PAD,
    april_of,
    describe_dia,
    described,
    dia_config,
    feedforwards,
    layers,
    shared_places,
)
from partimento.models.weights.places import Place, WeightsReport, dump, load, require_architecture


def describe_nari(config: Mapping[str, Any], generation: str) -> Described:
    """The model of a config.json of nari-labs, in either form, with the weights of this generation. Raises MODEL030."""
    if "model" not in config:
        return describe_dia(config, generation)
    model, data = section(config, "model"), section(config, "data")
    texts, codes = section(model, "encoder"), section(model, "decoder")
    for part in (texts, codes):
        activations = part.get("mlp_activations", ["silu", "linear"])
        require(activations == ["silu", "linear"], "mlp_activations", activations, "silu and linear")
        require(not part.get("use_pre_norm", False), "use_pre_norm", part.get("use_pre_norm"), "false")
    shortest = model.get("rope_min_timescale", 1)
    require(shortest == 1, "rope_min_timescale", shortest, "1")
    eps = real(model, "normalization_layer_epsilon", 1e-5)
    theta = real(model, "rope_max_timescale", 10000)
    encoder = TextConfig(
        vocabulary=number(model, "src_vocab_size", 128),
        length=number(data, "text_length"),
        width=number(texts, "n_embd"),
        layers=number(texts, "n_layer", most=MOST_LAYERS),
        heads=number(texts, "n_head"),
        head_width=number(texts, "head_dim"),
        feedforward=number(texts, "n_hidden"),
        norm_eps=eps,
        rope_theta=theta,
        attention_scale=1.0,
        qk_norm=False,
    )
    ids = {
        name: identifier(data, f"audio_{name}_value", default)
        for name, default in (("eos", EOS), ("pad", PAD), ("bos", BOS))
    }
    codebooks = number(data, "channels", 9, MOST_CODEBOOKS)
    decoder = DecoderConfig(
        codebooks=codebooks,
        rows=number(model, "tgt_vocab_size", 1028),
        outputs=ids["eos"] + 1,
        width=number(codes, "n_embd"),
        layers=number(codes, "n_layer", most=MOST_LAYERS),
        heads=number(codes, "gqa_query_heads"),
        kv_heads=number(codes, "kv_heads"),
        head_width=number(codes, "gqa_head_dim"),
        feedforward=number(codes, "n_hidden"),
        norm_eps=eps,
        max_positions=number(data, "audio_length"),
        rope_theta=theta,
        qk_norm=False,
        attention_scale=1.0,
        cross_width=encoder.width,
        cross_heads=number(codes, "cross_query_heads"),
        cross_head_width=number(codes, "cross_head_dim"),
        cross_attention_rope=april_of(generation),
    )
    return described(encoder, decoder, delays_of(data.get("delay_pattern") or DELAYS, codebooks), ids, generation)


def nari_config(model: TextModel, delays: tuple[int, ...], specials: Mapping[str, int | None]) -> dict[str, Any]:
    """The config.json of nari-labs' code that computes this model: of April 2025 where the cross attention is rotated,
    else of June. Raises MODEL002 for what it cannot say."""
    if not model.decoder.config.cross_attention_rope:
        config = dia_config(model, delays, specials)
        both = {"norm_eps": model.decoder.config.norm_eps}
        return {**config, **both, "torch_dtype": "float32", **_ids(specials, "{}_token_id")}
    encoder, codes = model.encoder, model.decoder.config
    assert isinstance(encoder, TextEncoder)
    texts = encoder.config
    require_architecture(
        {
            "norm_eps": texts.norm_eps == codes.norm_eps,
            "rope_theta": texts.rope_theta == codes.rope_theta and codes.rope_theta.is_integer(),
            "kv_heads": texts.kv_heads == texts.heads,
            "cross_kv_heads": codes.cross_kv_heads == codes.cross_heads,
        },
        "one that nari-labs' code of April 2025 computes",
        "export it with --as partimento",
    )
    return {
        "version": "0.1",
        "model": {
            "encoder": {
                "n_layer": texts.layers,
                "n_embd": texts.width,
                "n_hidden": texts.feedforward,
                "n_head": texts.heads,
                "head_dim": texts.head_width,
            },
            "decoder": {
                "n_layer": codes.layers,
                "n_embd": codes.width,
                "n_hidden": codes.feedforward,
                "gqa_query_heads": codes.heads,
                "kv_heads": codes.kv_heads,
                "gqa_head_dim": codes.head_width,
                "cross_query_heads": codes.cross_heads,
                "cross_head_dim": codes.cross_head_width,
            },
            "src_vocab_size": texts.vocabulary,
            "tgt_vocab_size": codes.rows,
            "dropout": 0.0,
            "normalization_layer_epsilon": codes.norm_eps,
            "weight_dtype": "float32",
            "rope_min_timescale": 1,
            "rope_max_timescale": int(codes.rope_theta),
        },
        "training": {"dtype": "float32", "logits_dot_in_fp32": False},
        "data": {
            "text_length": texts.length,
            "audio_length": codes.max_positions,
            "channels": codes.codebooks,
            "text_pad_value": 0,
            **_ids(specials, "audio_{}_value"),
            "delay_pattern": list(delays),
        },
    }


def import_nari(model: TextModel, state: Mapping[str, Tensor]) -> WeightsReport:
    """Copies a state dict of nari-labs' DiaModel into the model. Raises MODEL002 as `places.load`."""
    return load(dict(_places(model)), state)


def export_nari(model: TextModel) -> dict[str, Tensor]:
    """The weights under the names, and in the axes, of nari-labs' DiaModel (copies). Raises MODEL002.

    Logits of ids above EOS, which are never drawn and which ours does not have, are copies of EOS's.
    """
    return dump(_places(model))


def _places(model: TextModel) -> Iterator[tuple[str, Place]]:
    yield from shared_places(model)
    for path, matrices, heads in layers(model):
        for letter, matrix in matrices.items():
            if letter == "o":  # [D, H E] -> [H, E, D]
                kernel = matrix.unflatten(1, (heads[0], -1)).permute(1, 2, 0)
            else:  # [H E, D] -> [D, H, E]
                kernel = matrix.unflatten(0, (heads[letter != "q"], -1)).permute(2, 0, 1)
            yield f"{path}.{letter}_proj.weight", Place(kernel)
    for path, up, down in feedforwards(model):
        yield f"{path}.wi_fused.weight", Place(up.unflatten(0, (2, -1)).permute(2, 0, 1))
        yield f"{path}.wo.weight", Place(down.t())
    config = model.decoder.config
    for book, table in enumerate(model.decoder.embedding.split(config.rows)):
        yield f"decoder.embeddings.{book}.weight", Place(table)
    head_KVD = model.decoder.head.weight.unflatten(0, (config.codebooks, config.outputs))
    yield "decoder.logits_dense.weight", Place(head_KVD.permute(2, 0, 1), axis=2, rows=config.rows)


def _ids(specials: Mapping[str, int | None], form: str) -> dict[str, int | None]:
    return {form.format(name): specials[name] for name in ("eos", "pad", "bos")}

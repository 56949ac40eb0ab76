"""Weights of transformers' DiaForConditionalGeneration, in and out by name.

Dia has two generations of weights whose tensors have the same names and shapes, and which are not the same model:

0626    of June 2025. Cross attention has no positions. This is what transformers computes.
april   of April 2025 (and most fine-tunes of it). Queries and keys of the cross attention are rotated too.

Facts of both: github.com/nari-labs/dia, commits 65028e0 and 51e5405; of the names here: transformers 5.23, models/dia.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from partimento.models.decoder import CodeDecoder, DecoderConfig
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
    unreadable,
)
from partimento.models.weights.places import Place, WeightsReport, dump, load, require_architecture

GENERATIONS = ("0626", "april")
DELAYS = [0, 8, 9, 10, 11, 12, 13, 14, 15]
EOS, PAD, BOS = 1024, 1025, 1026
_SAMPLE_RATE, _HOP = 44100, 512  # the DAC that Dia was trained on, of which its config.json says nothing
_NORM_EPS, _THETA = 1e-5, 10000.0


def describe_dia(config: Mapping[str, Any], generation: str) -> Described:
    """The model of a config.json of transformers, with the weights of this generation (GENERATIONS).

    What the file leaves out has the default of transformers, which are the sizes of Dia-1.6B. Raises MODEL030.
    """
    texts, codes = section(config, "encoder_config"), section(config, "decoder_config")
    for part in (texts, codes):
        require(part.get("hidden_act", "silu") == "silu", "hidden_act", part.get("hidden_act"), "silu")
    encoder = TextConfig(
        vocabulary=number(texts, "vocab_size", 256),
        length=number(texts, "max_position_embeddings", 1024),
        width=number(texts, "hidden_size", 1024),
        layers=number(texts, "num_hidden_layers", 12, MOST_LAYERS),
        heads=number(texts, "num_attention_heads", 16),
        kv_heads=number(texts, "num_key_value_heads", 16),
        head_width=number(texts, "head_dim", 128),
        feedforward=number(texts, "intermediate_size", 4096),
        norm_eps=real(texts, "norm_eps", _NORM_EPS),
        rope_theta=_theta(texts),
        attention_scale=1.0,
        qk_norm=False,
    )
    width = number(codes, "cross_hidden_size", 1024)
    require(width == encoder.width, "cross_hidden_size", width, f"the width of the encoder, {encoder.width},")
    ids = {name: _special(config, codes, name) for name in ("eos", "pad", "bos")}
    codebooks = number(codes, "num_channels", 9, MOST_CODEBOOKS)
    decoder = DecoderConfig(
        codebooks=codebooks,
        rows=number(codes, "vocab_size", 1028),
        outputs=ids["eos"] + 1,
        width=number(codes, "hidden_size", 2048),
        layers=number(codes, "num_hidden_layers", 18, MOST_LAYERS),
        heads=number(codes, "num_attention_heads", 16),
        kv_heads=number(codes, "num_key_value_heads", 4),
        head_width=number(codes, "head_dim", 128),
        feedforward=number(codes, "intermediate_size", 8192),
        norm_eps=real(codes, "norm_eps", _NORM_EPS),
        max_positions=number(codes, "max_position_embeddings", 3072),
        rope_theta=_theta(codes),
        qk_norm=False,
        attention_scale=1.0,
        cross_width=encoder.width,
        cross_heads=number(codes, "cross_num_attention_heads", 16),
        cross_kv_heads=number(codes, "cross_num_key_value_heads", 16),
        cross_head_width=number(codes, "cross_head_dim", 128),
        cross_attention_rope=april_of(generation),
    )
    return described(encoder, decoder, delays_of(config.get("delay_pattern") or DELAYS, codebooks), ids, generation)


def described(
    encoder: TextConfig, decoder: DecoderConfig, delays: tuple[int, ...], ids: dict[str, int], generation: str
) -> Described:
    """A Dia with the conventions of its generation: how it is guided, and how its items end."""
    if sorted(ids.values()) != list(range(ids["eos"], ids["eos"] + 3)) or max(ids.values()) >= decoder.rows:
        raise unreadable(f"eos, pad and bos are {ids['eos']}, {ids['pad']} and {ids['bos']} of {decoder.rows} ids")
    april = april_of(generation)
    return Described(
        kind="dia",
        model={
            "encoder": {"kind": "bytes", **encoder.to_json()},
            "decoder": decoder.to_json(),
            "null": "zeros",
        },
        delays=delays,
        specials={name: ids[name] for name in ("eos", "pad", "bos")},
        ending={"eos": "draw" if april else "argmax", "tail": "end"},
        guidance_rule="mix" if april else "filter",
        words={"kind": "bytes", "length": encoder.length, "tags": []},
        codec={
            "name": "dac-44k",
            "sample_rate": _SAMPLE_RATE,
            "frame_rate": [_SAMPLE_RATE, _HOP],
            "cardinality": ids["eos"],
            "codebooks": decoder.codebooks,
            "layout": "mono" if decoder.codebooks == 9 else None,
            "books": [],
        },
    )


def april_of(generation: str) -> bool:
    """Whether the cross attention is rotated. Raises ValueError for a name that is not one of GENERATIONS."""
    if generation not in GENERATIONS:
        raise ValueError(f"{generation!r} is not one of {', '.join(GENERATIONS)}")
    return generation == "april"


def dia_config(model: TextModel, delays: tuple[int, ...], specials: Mapping[str, int | None]) -> dict[str, Any]:
    """The config.json of transformers for this model. Raises MODEL002 for what it cannot say."""
    encoder, decoder = _parts(model)
    require_architecture(
        {"cross_attention_rope": not decoder.config.cross_attention_rope},
        "one that transformers computes",
        "export it with --as nari: transformers never rotates the cross attention",
    )
    texts, codes = encoder.config, decoder.config
    rope = {"rope_type": "default"}
    return {
        "architectures": ["DiaForConditionalGeneration"],
        "model_type": "dia",
        "is_encoder_decoder": True,
        "dtype": "float32",
        "delay_pattern": list(delays),
        "encoder_config": {
            "model_type": "dia_encoder",
            "vocab_size": texts.vocabulary,
            "max_position_embeddings": texts.length,
            "hidden_size": texts.width,
            "num_hidden_layers": texts.layers,
            "num_attention_heads": texts.heads,
            "num_key_value_heads": texts.kv_heads,
            "head_dim": texts.head_width,
            "intermediate_size": texts.feedforward,
            "norm_eps": texts.norm_eps,
            "hidden_act": "silu",
            "rope_theta": texts.rope_theta,
            "rope_parameters": {**rope, "rope_theta": texts.rope_theta},
        },
        "decoder_config": {
            "model_type": "dia_decoder",
            "num_channels": codes.codebooks,
            "vocab_size": codes.rows,
            "hidden_size": codes.width,
            "num_hidden_layers": codes.layers,
            "num_attention_heads": codes.heads,
            "num_key_value_heads": codes.kv_heads,
            "head_dim": codes.head_width,
            "intermediate_size": codes.feedforward,
            "norm_eps": codes.norm_eps,
            "max_position_embeddings": codes.max_positions,
            "cross_hidden_size": codes.cross_width,
            "cross_num_attention_heads": codes.cross_heads,
            "cross_num_key_value_heads": codes.cross_kv_heads,
            "cross_head_dim": codes.cross_head_width,
            "hidden_act": "silu",
            "is_encoder_decoder": True,
            "rope_theta": codes.rope_theta,
            "rope_parameters": {**rope, "rope_theta": codes.rope_theta},
            **{f"{name}_token_id": specials[name] for name in ("eos", "pad", "bos")},
        },
    }


def import_dia(model: TextModel, state: Mapping[str, Tensor]) -> WeightsReport:
    """Copies a DiaForConditionalGeneration state dict into the model. Raises MODEL002 as `places.load`."""
    return load(dict(_places(model)), state)


def export_dia(model: TextModel) -> dict[str, Tensor]:
    """The weights under DiaForConditionalGeneration's names (copies). Raises MODEL002 for another architecture.

    Rows of the head for ids above EOS, which are never drawn and which ours does not have, are copies of EOS's.
    """
    return dump(_places(model))


def layers(model: TextModel) -> Iterator[tuple[str, dict[str, Tensor], tuple[int, int]]]:
    """For each attention of the model: its path in Dia's names, {"q", "k", "v", "o"} as matrices [out, in] (views), and
    the numbers of heads of its queries and of its keys. Raises MODEL002."""
    encoder, decoder = _parts(model)
    for network, path in ((encoder, "encoder"), (decoder, "decoder")):
        config = network.config
        widths = [part * _of(config.head_width) for part in (config.heads, _of(config.kv_heads), _of(config.kv_heads))]
        for number_, block in enumerate(network.blocks.children()):
            ours = dict(block.named_parameters())
            query, key, value = ours["attention.qkv.weight"].split(widths)
            at = f"{path}.layers.{number_}."
            matrices = {"q": query, "k": key, "v": value, "o": ours["attention.out.weight"]}
            yield at + "self_attention", matrices, (config.heads, _of(config.kv_heads))
            if isinstance(config, DecoderConfig):
                key, value = ours["cross.key_value.weight"].chunk(2)
                matrices = {"q": ours["cross.query.weight"], "k": key, "v": value, "o": ours["cross.out.weight"]}
                yield at + "cross_attention", matrices, (_of(config.cross_heads), _of(config.cross_kv_heads))


def shared_places(model: TextModel) -> Iterator[tuple[str, Place]]:
    """What both layouts name and shape alike: norms, and the text's embedding. Raises MODEL002."""
    encoder, decoder = _parts(model)
    yield "encoder.embedding.weight", Place(encoder.embedding)
    norms = {
        "encoder": {"attention_norm": "pre_sa_norm", "feedforward_norm": "post_sa_norm"},
        "decoder": {"attention_norm": "pre_sa_norm", "cross_norm": "pre_ca_norm", "feedforward_norm": "pre_mlp_norm"},
    }
    for network, path in ((encoder, "encoder"), (decoder, "decoder")):
        yield f"{path}.norm.weight", Place(network.norm.weight)
        for number_, block in enumerate(network.blocks):
            for ours, theirs in norms[path].items():
                yield f"{path}.layers.{number_}.{theirs}.weight", Place(block.get_parameter(f"{ours}.weight"))


def feedforwards(model: TextModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of each feedforward: its path in Dia's names, gate and up [2 F, D] and down [D, F]. Raises MODEL002."""
    encoder, decoder = _parts(model)
    for network, path in ((encoder, "encoder"), (decoder, "decoder")):
        for number_, block in enumerate(network.blocks):
            up, down = (block.get_parameter(f"feedforward.{name}.weight") for name in ("up", "down"))
            yield f"{path}.layers.{number_}.mlp", up, down


def _places(model: TextModel) -> Iterator[tuple[str, Place]]:
    for name, place in shared_places(model):
        yield f"model.{name}", place
    for path, matrices, _ in layers(model):
        for letter, matrix in matrices.items():
            yield f"model.{path}.{letter}_proj.weight", Place(matrix)
    for path, up, down in feedforwards(model):
        yield f"model.{path}.gate_up_proj.weight", Place(up)
        yield f"model.{path}.down_proj.weight", Place(down)
    decoder = model.decoder
    yield "model.decoder.embeddings.embed.weight", Place(decoder.embedding)
    head_KVD = decoder.head.weight.unflatten(0, (decoder.config.codebooks, decoder.config.outputs))
    yield "logits_dense.weight", Place(head_KVD, axis=1, rows=decoder.config.rows, folded=True)


def _parts(model: TextModel) -> tuple[TextEncoder, CodeDecoder]:
    encoder, decoder = model.encoder, model.decoder
    fits = {"encoder": isinstance(encoder, TextEncoder)}
    if isinstance(encoder, TextEncoder):
        texts, codes = encoder.config, decoder.config
        fits |= {
            "qk_norm": not (texts.qk_norm or codes.qk_norm),
            "attention_scale": texts.attention_scale == codes.attention_scale == 1.0,
            "activation": codes.activation == "swiglu",
            "norm": codes.norm == "rms",
            "positions": codes.positions == "rotary",
            "bias": not codes.bias,
            "tags": codes.tags == 0,
            "outputs": codes.outputs <= codes.rows,
        }
    require_architecture(fits, "a Dia", "export it with --as partimento")
    assert isinstance(encoder, TextEncoder)
    return encoder, decoder


def _special(config: Mapping[str, Any], codes: Mapping[str, Any], name: str) -> int:
    """In the decoder's section since transformers 5, and before at the top."""
    key, default = f"{name}_token_id", {"eos": EOS, "pad": PAD, "bos": BOS}[name]
    values = (codes.get(key), config.get(key), default)
    return identifier({key: next(value for value in values if value is not None)}, key)


def _theta(part: Mapping[str, Any]) -> float:
    """The base of the rotation: in `rope_parameters` since transformers 5, and before in `rope_theta`."""
    rope = part.get("rope_parameters") or part.get("rope_scaling") or {}
    require(isinstance(rope, Mapping), "rope_parameters", rope, "an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(kind == "default", "rope_type", kind, "default")
    return real(rope if "rope_theta" in rope else part, "rope_theta", _THETA)


def _of(value: int | None) -> int:
    """A size that the configuration has resolved."""
    assert value is not None
    return value

"""Weights of transformers' MusicGen, in and out by name: its decoder alone (MusicgenForCausalLM), and with the text
encoder (MusicgenForConditionalGeneration).

In stereo MusicGen's codebooks are left and right in turns (L0 R0 L1 R1 ...); ours are channel by channel (L0 L1 ... R0
R1 ...), as the columns of our packs. The whole model changes its order on the way in and out, and its delays with it.

Facts: transformers 5.23, models/musicgen; the order of stereo: its generate decodes books 0::2 as left, 1::2 as right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.t5 import FIELDS, SIZES, T5Memory
from partimento.models.weights.described import (
    MOST_CODEBOOKS,
    MOST_LAYERS,
    Described,
    identifier,
    number,
    require,
    section,
    unreadable,
)
from partimento.models.weights.places import Place, WeightsReport, dump, load, require_architecture

_POSITIONS = "model.decoder.embed_positions.weights"
# What transformers leaves out of a config.json: the sizes of MusicGen small, T5 small and EnCodec.
_DECODER = {
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 24,
    "ffn_dim": 4096,
    "num_attention_heads": 16,
    "activation_function": "gelu",
    "hidden_size": 1024,
    "dropout": 0.1,
    "num_codebooks": 4,
    "audio_channels": 1,
}
_T5 = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
}
_ENCODEC = {"sampling_rate": 24000, "upsampling_ratios": [8, 5, 4, 2]}
_TEXT_LENGTH = 256  # ids of a text at most; MusicGen itself sets no limit
_TIED = "text_encoder.encoder.embed_tokens.weight"


def musicgen_config(theirs: Mapping[str, Any]) -> DecoderConfig:
    """Our configuration for a `MusicgenDecoderConfig` (its config.json as a dictionary).

    Their decoder always holds cross attention, over a memory of the model's own width; without a memory it is skipped.
    `scale_embedding` is read by their configuration but not by their model, and so not by ours.
    Raises MODEL001 for an activation other than GELU.
    """
    if theirs["activation_function"] != "gelu":
        raise PartimentoError(
            "MODEL001",
            f"MusicGen with activation {theirs['activation_function']!r} is not supported, only gelu",
            next="use a checkpoint with activation_function = gelu",
        )
    return DecoderConfig(
        codebooks=theirs["num_codebooks"],
        rows=theirs["vocab_size"] + 1,
        outputs=theirs["vocab_size"],
        width=theirs["hidden_size"],
        layers=theirs["num_hidden_layers"],
        heads=theirs["num_attention_heads"],
        feedforward=theirs["ffn_dim"],
        activation="gelu",
        norm="layer",
        norm_eps=1e-5,
        positions="sinusoidal",
        max_positions=theirs["max_position_embeddings"],
        qk_norm=False,
        dropout=float(theirs["dropout"]),
        bias=False,
        cross_width=theirs["hidden_size"],
    )


def import_musicgen(decoder: CodeDecoder, state: Mapping[str, Tensor]) -> WeightsReport:
    """Copies a MusicgenForCausalLM state dict into the decoder. Raises MODEL002 as `places.load`."""
    report = WeightsReport()
    if _POSITIONS in state:
        _check_positions(decoder, _POSITIONS, state[_POSITIONS], report)
    return load(dict(_places(decoder)), state, report)


def export_musicgen(decoder: CodeDecoder) -> dict[str, Tensor]:
    """The decoder's weights under MusicgenForCausalLM's names (copies). Raises MODEL002 for another architecture."""
    return dump(_places(decoder))


def describe_musicgen(config: Mapping[str, Any]) -> Described:
    """The model of the config.json of a MusicgenForConditionalGeneration. Raises MODEL001, MODEL030.

    Without text MusicGen reads zeros under a mask of zeros, of which nothing comes: the null "empty".
    """
    codes = {**_DECODER, **section(config, "decoder")}
    texts = {**_T5, **section(config, "text_encoder")}
    audio = {**_ENCODEC, **section(config, "audio_encoder")}
    require(texts.get("model_type", "t5") == "t5", "text_encoder.model_type", texts.get("model_type"), "t5")
    crossed = codes.get("cross_attention_hidden_size")
    require(crossed is None, "cross_attention_hidden_size", crossed, "null")
    channels, cardinality = number(codes, "audio_channels"), number(codes, "vocab_size")
    most = {"num_hidden_layers": MOST_LAYERS, "num_codebooks": MOST_CODEBOOKS}
    for name in _DECODER.keys() - {"activation_function", "dropout"}:
        number(codes, name, most=most.get(name, 2**20))
    for name in SIZES:
        number(texts, name, most=MOST_LAYERS if name == "num_layers" else 2**20)
    require(channels == 1 or (channels == 2 and codes["num_codebooks"] % 2 == 0), "audio_channels", channels, "1 and 2")
    for name in ("pad_token_id", "bos_token_id"):
        special = identifier(codes, name, cardinality)
        require(special == cardinality, name, special, f"{cardinality}, the id after the codes,")
    hop = audio["upsampling_ratios"]
    if not isinstance(hop, list) or not hop or not all(type(one) is int and 0 < one < 2**16 for one in hop):
        raise unreadable(f"upsampling_ratios is {hop!r}, where a list of whole numbers belongs")
    decoder = musicgen_config({**codes, "dropout": 0.0})
    books = decoder.codebooks // channels
    return Described(
        kind="musicgen",
        model={
            "encoder": {"kind": "t5", "config": {"t5": {name: texts[name] for name in FIELDS}, "width": decoder.width}},
            "decoder": decoder.to_json(),
            "null": "empty",
        },
        delays=tuple(range(books)) * channels,
        specials={"eos": None, "pad": cardinality, "bos": cardinality},
        ending={"eos": "never", "tail": "special"},
        guidance_rule="mix",
        words={"kind": "subwords", "length": _TEXT_LENGTH},
        codec={
            "name": "encodec-32k" if audio["sampling_rate"] == 32000 else None,
            "sample_rate": number(audio, "sampling_rate"),
            "frame_rate": [number(audio, "sampling_rate"), math.prod(hop)],
            "cardinality": cardinality,
            "codebooks": decoder.codebooks,
            "layout": "mono" if channels == 1 else "left-right",
            "books": [] if channels == 1 else [books, books],
        },
    )


def book_order(codebooks: int, channels: int) -> list[int]:
    """Which codebook of theirs each of ours is: ours are channel by channel, theirs level by level.

    >>> book_order(8, 2)
    [0, 2, 4, 6, 1, 3, 5, 7]
    """
    return [book for channel in range(channels) for book in range(channel, codebooks, channels)]


def musicgen_whole_config(model: TextModel, channels: int, audio_encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a MusicgenForConditionalGeneration with this codec (the config.json of its EnCodec).

    Raises MODEL002 for another architecture.
    """
    encoder, decoder = _parts(model)
    config = decoder.config
    _check_architecture(config)
    return {
        "architectures": ["MusicgenForConditionalGeneration"],
        "model_type": "musicgen",
        "is_encoder_decoder": True,
        "dtype": "float32",
        "text_encoder": {"model_type": "t5", "architectures": ["T5EncoderModel"], **encoder.config["t5"]},
        "audio_encoder": dict(audio_encoder),
        "decoder": {
            "model_type": "musicgen_decoder",
            "vocab_size": config.outputs,
            "max_position_embeddings": config.max_positions,
            "num_hidden_layers": config.layers,
            "ffn_dim": config.feedforward,
            "num_attention_heads": config.heads,
            "activation_function": "gelu",
            "hidden_size": config.width,
            "dropout": config.dropout,
            "num_codebooks": config.codebooks,
            "audio_channels": channels,
            "pad_token_id": config.outputs,
            "bos_token_id": config.outputs,
        },
    }


def import_musicgen_whole(model: TextModel, state: Mapping[str, Tensor], channels: int) -> WeightsReport:
    """Copies a MusicgenForConditionalGeneration state dict into the model, but for its audio codec (`report.apart`).

    Raises MODEL002 as `places.load`.
    """
    report = WeightsReport(apart=[name for name in state if name.startswith("audio_encoder.")])
    places = dict(_whole_places(model, channels))
    positions, shared = f"decoder.{_POSITIONS}", "text_encoder.shared.weight"
    if positions in state:
        _check_positions(model.decoder, positions, state[positions], report)
    if _TIED in state and shared not in state:  # one of the two names of T5's embedding is kept
        places[_TIED] = places.pop(shared)
    elif _TIED in state and not torch.equal(state[_TIED], state[shared]):
        report.misshapen.append(f"{_TIED}: not {shared}, whose other name it is")
    elif _TIED in state:
        report.loaded.append(_TIED)
    return load(places, state, report)


def export_musicgen_whole(model: TextModel, channels: int) -> dict[str, Tensor]:
    """The weights under MusicgenForConditionalGeneration's names (copies), but for its codec. Raises MODEL002."""
    return dump(_whole_places(model, channels))


def _whole_places(model: TextModel, channels: int) -> Iterator[tuple[str, Place]]:
    encoder, decoder = _parts(model)
    for name, weight in encoder.t5.named_parameters():
        yield f"text_encoder.{name}", Place(weight)
    if encoder.projection is not None:
        for name, weight in encoder.projection.named_parameters():
            yield f"enc_to_dec_proj.{name}", Place(weight)
    for name, place in _places(decoder, book_order(decoder.config.codebooks, channels)):
        yield f"decoder.{name}", place


def _parts(model: TextModel) -> tuple[T5Memory, CodeDecoder]:
    encoder = model.encoder
    require_architecture({"encoder": isinstance(encoder, T5Memory)}, "a MusicGen", "export it with --as partimento")
    assert isinstance(encoder, T5Memory)
    return encoder, model.decoder


def _places(decoder: CodeDecoder, order: list[int] | None = None) -> Iterator[tuple[str, Place]]:
    """Their name of every tensor, with its place. `order`: which book of theirs each of ours is."""
    _check_architecture(decoder.config)
    config = decoder.config
    ours = dict(decoder.named_parameters())
    tables, heads = ours["embedding"].split(config.rows), ours["head.weight"].split(config.outputs)
    for book, (table, head) in zip(order or range(config.codebooks), zip(tables, heads, strict=True), strict=True):
        yield f"model.decoder.embed_tokens.{book}.weight", Place(table)
        yield f"lm_heads.{book}.weight", Place(head)
    for name, matrix in _matrices(ours, config.layers):
        yield name, Place(matrix)


def _matrices(ours: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    for part in ("weight", "bias"):
        yield f"model.decoder.layer_norm.{part}", ours[f"norm.{part}"]
    for layer in range(layers):
        their, our = f"model.decoder.layers.{layer}.", f"blocks.{layer}."
        for name, rows_of in zip("qkv", ours[our + "attention.qkv.weight"].chunk(3), strict=True):
            yield f"{their}self_attn.{name}_proj.weight", rows_of
        yield f"{their}self_attn.out_proj.weight", ours[our + "attention.out.weight"]
        yield f"{their}encoder_attn.q_proj.weight", ours[our + "cross.query.weight"]
        for name, rows_of in zip("kv", ours[our + "cross.key_value.weight"].chunk(2), strict=True):
            yield f"{their}encoder_attn.{name}_proj.weight", rows_of
        yield f"{their}encoder_attn.out_proj.weight", ours[our + "cross.out.weight"]
        yield f"{their}fc1.weight", ours[our + "feedforward.up.weight"]
        yield f"{their}fc2.weight", ours[our + "feedforward.down.weight"]
        for part in ("weight", "bias"):
            yield f"{their}self_attn_layer_norm.{part}", ours[our + f"attention_norm.{part}"]
            yield f"{their}encoder_attn_layer_norm.{part}", ours[our + f"cross_norm.{part}"]
            yield f"{their}final_layer_norm.{part}", ours[our + f"feedforward_norm.{part}"]


def _check_architecture(config: DecoderConfig) -> None:
    require_architecture(
        {
            "activation": config.activation == "gelu",
            "norm": config.norm == "layer",
            "positions": config.positions == "sinusoidal",
            "qk_norm": not config.qk_norm,
            "bias": not config.bias,
            "attention_scale": config.attention_scale is None,
            "head_width": config.head * config.heads == config.width,
            "kv_heads": config.kv_heads == config.cross_kv_heads == config.heads == config.cross_heads,
            "cross_head_width": config.cross_head_width == config.head,
            "cross_attention_rope": not config.cross_attention_rope,
            "cross_width": config.cross_width == config.width,
            "tags": config.tags == 0,
        },
        "a MusicGen decoder",
        "build it with musicgen_config(...)",
    )


def _check_positions(decoder: CodeDecoder, name: str, table: Tensor, report: WeightsReport) -> None:
    """Checkpoints of 2023 hold the computed position table; it is ours if it is equal, and else not their model."""
    assert decoder.added is not None
    ours = decoder.added.table_PD
    steps = min(len(ours), len(table)) if table.ndim == 2 else 0
    if ours.is_meta:
        report.loaded.append(name)
    elif (
        not steps
        or table.shape[1] != ours.shape[1]
        or not torch.allclose(ours[:steps], table[:steps].to(ours), atol=2e-3)
    ):
        report.misshapen.append(f"{name}: not the sinusoidal table that is expected")
    else:
        report.loaded.append(name)

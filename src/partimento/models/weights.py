"""Weights of transformers' MusicgenForCausalLM, in and out by name.

Nothing is guessed: every tensor of theirs has one place in ours and the reverse, and an import where one is missing,
left over or of another shape is refused whole, with the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig

_POSITIONS = "model.decoder.embed_positions.weights"


@dataclass
class WeightsReport:
    """What an import found: their names that were `loaded`, `missing`, `left` over, or `misshapen` ("name: shapes")."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.left or self.misshapen)


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


@torch.no_grad()
def import_musicgen(decoder: CodeDecoder, state: Mapping[str, Tensor]) -> WeightsReport:
    """Copies a MusicgenForCausalLM state dict into the decoder.

    Raises MODEL002 with the report, and leaves the decoder as it was, unless every name and shape fits.
    """
    places = dict(_places(decoder))
    report = WeightsReport(missing=[name for name in places if name not in state])
    for name, value in state.items():
        if name == _POSITIONS:
            _check_positions(decoder, value, report)
        elif name not in places:
            report.left.append(name)
        elif places[name].shape != value.shape:
            report.misshapen.append(f"{name}: {list(value.shape)} where {list(places[name].shape)} belongs")
        else:
            report.loaded.append(name)
    if not report.complete:
        raise PartimentoError(
            "MODEL002",
            "the weights do not fit the model",
            why="; ".join(
                f"{kind}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
                for kind, names in asdict(report).items()
                if names and kind != "loaded"
            ),
            next="build the decoder from the config.json that belongs to these weights",
            report=asdict(report),
        )
    for name in report.loaded:
        places[name].copy_(state[name])
    return report


def export_musicgen(decoder: CodeDecoder) -> dict[str, Tensor]:
    """The decoder's weights under MusicgenForCausalLM's names (copies). Raises MODEL002 for another architecture."""
    return {name: place.detach().clone() for name, place in _places(decoder)}


def _places(decoder: CodeDecoder) -> Iterator[tuple[str, Tensor]]:
    """Their name of every tensor, with the part of our parameter (a view) that it is."""
    _check_architecture(decoder.config)
    config = decoder.config
    ours = dict(decoder.named_parameters())
    for book in range(config.codebooks):
        rows = slice(book * config.rows, (book + 1) * config.rows)
        yield f"model.decoder.embed_tokens.{book}.weight", ours["embedding"][rows]
        outputs = slice(book * config.outputs, (book + 1) * config.outputs)
        yield f"lm_heads.{book}.weight", ours["head.weight"][outputs]
    for part in ("weight", "bias"):
        yield f"model.decoder.layer_norm.{part}", ours[f"norm.{part}"]
    for layer in range(config.layers):
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
    wrong = [
        name
        for name, fits in {
            "activation": config.activation == "gelu",
            "norm": config.norm == "layer",
            "positions": config.positions == "sinusoidal",
            "qk_norm": not config.qk_norm,
            "bias": not config.bias,
            "attention_scale": config.attention_scale is None,
            "head_width": config.head * config.heads == config.width,
            "kv_heads": config.kv_heads == config.cross_kv_heads == config.heads,
            "cross_width": config.cross_width == config.width,
            "tags": config.tags == 0,
        }.items()
        if not fits
    ]
    if wrong:
        raise PartimentoError(
            "MODEL002",
            "this decoder is not a MusicGen decoder",
            why=f"it differs in {', '.join(wrong)}",
            next="build it with musicgen_config(...)",
        )


def _check_positions(decoder: CodeDecoder, table: Tensor, report: WeightsReport) -> None:
    """Checkpoints of 2023 hold the computed position table; it is ours if it is equal, and else not their model."""
    assert decoder.added is not None
    ours = decoder.added.table_PD
    steps = min(len(ours), len(table))
    if table.shape[1] != ours.shape[1] or not torch.allclose(ours[:steps], table[:steps].to(ours), atol=2e-3):
        report.misshapen.append(f"{_POSITIONS}: not the sinusoidal table that is expected")

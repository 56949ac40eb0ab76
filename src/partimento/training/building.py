"""Models of codes and what gives their ids a meaning: from a configuration, and from a checkpoint again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from partimento.config import CodesConfig, DiaModel, MotConfig, RvqConfig
from partimento.models import initialise, lora, warm
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.dia import TextModel
from partimento.models.layers import check_positions
from partimento.models.text import TextConfig
from partimento.runs import published
from partimento.runs.published import Published
from partimento.sampling.sheet import Ending
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec, Specials
from partimento.tokens.subwords import SubwordText
from partimento.tokens.text import ByteText, TagWords, TextCoder
from partimento.training import mixing
from partimento.training.built import Built, Coder, Model, freeze
from partimento.training.fitting import check_codes, codec_notes


def build(config: CodesConfig, spec: CodecSpec, tags: tuple[str, ...], positions: int, captions: bool = True) -> Built:
    """The model that a configuration describes, for codes of this spec and a pack with these tags, and with `captions`
    or without.

    `positions` are the rows of the longest window. Raises TOKEN001 (pattern), MODEL001, MODEL004 (longer than what the
    weights have positions for), WEIGHTS... (model.weights, model.backbone), TRAIN058 (weights for other codes),
    TRAIN059 (a pattern in `freeze` that freezes nothing), and what `mixing.build` raises.
    """
    if isinstance(config, RvqConfig):
        return _rvq(config, spec, tags, positions)
    if isinstance(config, MotConfig):
        return mixing.build(config.model, spec, positions, config.train.precision)
    if config.model.weights is not None:
        return _from_weights(config.model, spec, Path(config.model.weights), positions, captions)
    return _dia(config.model, spec, tags, positions, captions)


def _rvq(config: RvqConfig, spec: CodecSpec, tags: tuple[str, ...], positions: int) -> Built:
    specials = Specials.after(spec.cardinality)
    module = CodeDecoder(decoder_config(config, spec, specials, tags=len(tags), positions=positions))
    return Built(
        module,
        Pattern.named(config.model.pattern, spec.codebooks, spec.books),
        specials,
        TagWords(tags),
        Ending(),
        rule="mix",
        null_trained=False,
        how={"decoder": module.config.to_json(), "words": TagWords(tags).to_json()},
    )


def _dia(model: DiaModel, spec: CodecSpec, tags: tuple[str, ...], positions: int, captions: bool) -> Built:
    specials, tags = Specials.after(spec.cardinality), tags if model.tag_tokens else ()
    coder = ByteText(model.text_length or (64 if model.tag_tokens else 256), tags, reads=captions or not tags)
    encoder = TextConfig(
        vocabulary=coder.vocabulary,
        length=coder.length,
        width=model.text_width,
        layers=model.text_layers,
        heads=model.text_heads,
        feedforward=model.text_feedforward,
        attention_scale=model.attention_scale,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
    )
    decoder = DecoderConfig(
        codebooks=spec.codebooks,
        rows=specials.rows,
        outputs=spec.cardinality + 1,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_width=model.head_width,
        feedforward=model.feedforward,
        max_positions=positions,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
        attention_scale=model.attention_scale,
        cross_width=model.text_width,
        cross_attention_rope=model.cross_attention_rope,
    )
    module = TextModel.from_json(
        {"encoder": {"kind": "bytes", **encoder.to_json()}, "decoder": decoder.to_json(), "null": model.null}
    )
    return _trained_as(
        model,
        module,
        Pattern.named(model.pattern or "delay", spec.codebooks, spec.books),
        specials,
        coder,
        Ending(),
        rule="mix",
        null_trained=False,
        base=None,
        notes=[*(f"text encoder: {note}" for note in initialise.notes(encoder)), *initialise.notes(decoder)],
    )


def _from_weights(model: DiaModel, spec: CodecSpec, folder: Path, positions: int, captions: bool) -> Built:
    found = published.read(folder)
    reader = found.coder(model.text_length)
    if captions and isinstance(reader, ByteText):
        reader = replace(reader, reads=True)
    check_codes(found, spec, folder)
    check_positions(0, positions, DecoderConfig.from_json(found.facts.model["decoder"]).max_positions)
    notes, pattern = codec_notes(found, spec, folder), found.pattern
    if found.codebooks != spec.codebooks:
        pattern = Pattern(tuple(delay for books in spec.books for delay in found.delays[:books]), pattern.stride)
        notes.append(f"{found.codebooks} codebooks of {folder} become the {spec.codebooks} of {spec.layout} codes")
    if model.pattern is not None:
        chosen = Pattern.named(model.pattern, spec.codebooks, spec.books)
        if chosen != pattern:
            notes.append(f"the weights learned the delays {list(pattern.delays)}, and are trained on with others")
        pattern = chosen
    return _trained_as(
        model,
        _begun(found, spec, model.dropout),
        pattern,
        found.specials,
        reader,
        found.ending,
        rule=found.guidance_rule,
        null_trained=found.null_trained,
        base={"folder": str(found.folder.resolve()), "sha256": found.sha256},
        notes=notes,
    )


def _begun(found: Published, spec: CodecSpec, dropout: float) -> TextModel:
    """The model with published weights, made stereo where the codes are and it is not."""
    mono = found.module(dropout=dropout)
    if found.codebooks == spec.codebooks:
        return mono
    tree = mono.to_json()
    stereo = TextModel.from_json({**tree, "decoder": {**tree["decoder"], "codebooks": spec.codebooks}})
    stereo.encoder = mono.encoder
    warm.stereo_from_mono(mono.decoder, stereo.decoder, spec.layout, spec.books)
    return stereo


def _trained_as(
    model: DiaModel,
    module: TextModel,
    pattern: Pattern,
    specials: Specials,
    coder: TextCoder,
    ending: Ending,
    *,
    rule: Literal["mix", "filter"],
    null_trained: bool,
    base: dict[str, str] | None,
    notes: Sequence[str],
) -> Built:
    """With adapters beside and weights frozen as the configuration says."""
    how: dict[str, Any] = {
        "model": module.to_json(),
        "words": coder.to_json(),
        "base": base,
        "freeze": list(model.freeze),
        "lora": None,
    }
    if model.lora_rank:
        how["lora"] = {
            "rank": model.lora_rank,
            "alpha": model.lora_alpha or float(model.lora_rank),
            "dropout": model.lora_dropout,
            "targets": list(model.lora_targets),
        }
    _adapt(module, how)
    return Built(module, pattern, specials, coder, ending, rule, null_trained, how, tuple(notes))


def _adapt(module: TextModel, how: Mapping[str, Any]) -> None:
    """Adapters and frozen weights. Raises TRAIN059 for a pattern that freezes nothing, or where nothing is left."""
    if how["lora"] is not None:
        lora.adapt(module, **how["lora"])
    freeze(module, how["freeze"])


def rebuild(told: Mapping[str, Any]) -> Model:
    """The module of a player's description: random weights, or those of `base`, with the same ones frozen.

    Where all were trained the checkpoint has them all, and the folder of the base is not read. Raises MODEL001, and
    WEIGHTS... where that folder is needed, and gone or of other weights.
    """
    if "mixture" in told:
        return mixing.rebuild(told)
    if "model" not in told:
        return CodeDecoder(DecoderConfig.from_json(told["decoder"]))
    spec, base = CodecSpec.from_json(told["spec"]), told["base"]
    if base is None or not _keeps_base(told):
        module = TextModel.from_json(told["model"])
    else:
        module = _begun(published.require(Path(base["folder"]), base["sha256"]), spec, dropout=0.0)
    _adapt(module, told)
    return module


def _keeps_base(told: Mapping[str, Any]) -> bool:
    """Whether some weights are those of `base`, and so not in the checkpoint. (T5 is never trained.)"""
    return bool(told["freeze"] or told["lora"] or told["model"]["encoder"]["kind"] == "t5")


def coder(told: Mapping[str, Any]) -> Coder:
    """The inverse of `Coder.to_json`."""
    match told["kind"]:
        case "tags":
            return TagWords(tuple(told["tags"]))
        case "bytes":
            return ByteText(told["length"], tuple(told["tags"]), told.get("reads", True))
    return SubwordText.from_json(told)


def decoder_config(
    config: RvqConfig, spec: CodecSpec, specials: Specials, *, tags: int, positions: int
) -> DecoderConfig:
    """The decoder of the `rvq` family that the configuration describes, for codes of this spec."""
    model = config.model
    return DecoderConfig(
        codebooks=spec.codebooks,
        rows=specials.rows,
        outputs=spec.cardinality + 1,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        feedforward=model.feedforward,
        activation=model.activation,
        norm=model.norm,
        positions=model.positions,
        max_positions=positions,
        qk_norm=model.qk_norm,
        dropout=model.dropout,
        attention_scale=model.attention_scale,
        tags=tags,
    )

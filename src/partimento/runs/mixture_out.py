"""A mixture as a directory that AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True) loads.

    config.json                a Llama's, and `audio`: vocabulary, experts, codec
    model.safetensors          the Llama's tensors by their own names, and the audio's beside them; float32
    modeling_mixture.py        the model, which needs transformers and torch alone
    tokenizer.json ...         of the backbone, and its licence
    generation_config.json     plain sampling, until the model ends

A sequence of ids is one id a place, so that only flat grids can be said: K codes at one position (delay, parallel) have
no id together. Low-rank adapters stay apart, since merged into the Llama they would change its text.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.runs import published, tensorfiles
from partimento.runs.published import WEIGHTS
from partimento.runs.sources import CONFIG
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec, Specials
from partimento.tokens.vocabulary import AudioVocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from partimento.models.llama import LlamaConfig
    from partimento.models.mixture import MixtureConfig, MixtureModel

MODELING = "modeling_mixture.py"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def export_mixture(
    module: MixtureModel,
    vocabulary: AudioVocabulary,
    to: str | Path,
    *,
    pattern: Pattern,
    specials: Specials,
    spec: CodecSpec,
    backbone: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the mixture, which plays flat grids of this pattern and these specials, into the folder `to`.

    `backbone` is the folder of its Llama, whose tokenizer and licence are copied; `spec`, the codec of its codes, is
    kept in config.json. Returns {"to", "layout", "tensors", "parameters"}.
    Raises WEIGHTS008 (`to` exists), WEIGHTS023 (no tokenizer), WEIGHTS025 (another pattern, or not its vocabulary).
    """
    progress, to, config = progress or Quiet(), Path(to), module.decoder.config
    _require_flat(config, vocabulary, pattern, spec)
    published.require_absent(to)
    if not (backbone / _TOKENIZER[0]).is_file():
        raise PartimentoError(
            "WEIGHTS023",
            f"there is no tokenizer for the backbone in {backbone}",
            where=str(backbone / _TOKENIZER[0]),
            next="put the tokenizer.json beside the weights that was published with them",
        )
    tensors = {name: tensor.detach().float() for name, tensor in _tensors(module)}
    audio = _audio(config, vocabulary, specials, spec)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    progress.stage("write", f"{numbers:,} weights")
    with commit.folder(to) as tmp:
        for name in (*_TOKENIZER, *_LICENCES):
            for file in backbone.glob(name):
                shutil.copyfile(file, tmp / file.name)
        shutil.copyfile(Path(__file__).with_name(MODELING), tmp / MODELING)
        commit.record(tmp / CONFIG, {**_config(config.llama), "audio": audio})
        commit.record(tmp / "generation_config.json", _generation(config.llama, audio["end"]))
        tensorfiles.write(tmp / WEIGHTS, tensors)
    return {"to": str(to), "layout": "transformers", "tensors": len(tensors), "parameters": numbers}


def _require_flat(config: MixtureConfig, vocabulary: AudioVocabulary, pattern: Pattern, spec: CodecSpec) -> None:
    """Raises WEIGHTS025."""
    flat, books = Pattern.named("flat", config.codebooks), config.codebooks
    if pattern != flat:
        raise _inexpressible(
            f"its grid has the delays {list(pattern.delays)} with stride {pattern.stride}: {books} heads give {books} "
            "codes at one position, and transformers' generate gives one id",
            "train with model.pattern=flat for this, or export with --as partimento",
        )
    fitting = AudioVocabulary(config.llama.vocabulary, spec.codebooks, spec.cardinality, config.vocabulary)
    if vocabulary != fitting:
        raise _inexpressible(f"it has {fitting}, and not {vocabulary}", "give the vocabulary that it was trained with")


def _tensors(module: MixtureModel) -> Iterator[tuple[str, Tensor]]:
    """All weights, by the names of the directory."""
    from partimento.models.llama import PLACES, places

    ours = dict(module.llama.named_parameters())
    for name, theirs in places(module.llama.config).items():
        yield theirs, ours[name]
    yield "audio_embedding.weight", module.decoder.embedding
    yield "audio_head.weight", module.decoder.head.weight
    parts = {
        name.removeprefix("blocks.{}.").removesuffix(".weight"): theirs.removesuffix(".weight")
        for name, theirs in PLACES.items()
        if name.startswith("blocks.{}.")
    }
    for layer, expert in enumerate(module.decoder.experts):
        kind = module.decoder.config.experts.kind
        for name, weight in expert.named_parameters():
            yield _expert_name(kind, name, {part: theirs.format(layer) for part, theirs in parts.items()}), weight


def _expert_name(kind: str, name: str, parts: Mapping[str, str]) -> str:
    """Of an expert's weight `name`, from the names of Llama's own parts of that layer ("gate": "model.layers.0.mlp.
    gate_proj")."""
    mlp, attention = (parts[part].rpartition(".")[0] for part in ("gate", "query"))
    match kind:
        case "feedforward":
            return f"{mlp}.audio.{name}"
        case "bottleneck":
            place = attention if name.startswith("attention_") else mlp
            return f"{place}.audio.{name.removeprefix('attention_')}"
        case "lora":
            factor, _, part = name.partition(".")
            return f"{parts[part]}.audio.{factor}.weight"
        case "full" | "feedforward_copy":
            part = name.removeprefix("block.").removesuffix(".weight")
            if part in ("gate", "up", "down"):
                return f"{mlp}.audio.layer.{parts[part].rpartition('.')[2]}.weight"
            return f"{parts[part]}.audio.layer.weight"
    raise ValueError(f"weights of experts of kind {kind!r} have no names in {MODELING}")


def _audio(config: MixtureConfig, vocabulary: AudioVocabulary, specials: Specials, spec: CodecSpec) -> dict[str, Any]:
    """What MODELING calls `audio`."""
    return {
        "text": vocabulary.text,
        "codebooks": vocabulary.codebooks,
        "cardinality": vocabulary.cardinality,
        "cardinalities": list(spec.cardinalities),
        "vocabulary": vocabulary.kind,
        "rows": config.rows,
        "bos_row": specials.bos,
        "outputs": config.outputs,
        "start": vocabulary.size,
        "end": None if specials.eos is None else vocabulary.size + 1,
        "experts": config.experts.to_json(),
        "codec": spec.to_json(),
    }


def _config(llama: LlamaConfig) -> dict[str, Any]:
    scaling = {"rope_type": "default"} if llama.rope_scaling is None else {"rope_type": "llama3", **llama.rope_scaling}
    name = MODELING.removesuffix(".py")
    return {
        "architectures": ["MixtureForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{name}.MixtureConfig",
            "AutoModelForCausalLM": f"{name}.MixtureForCausalLM",
        },
        "model_type": "partimento_mixture",
        "dtype": "float32",
        "vocab_size": llama.vocabulary,
        "hidden_size": llama.width,
        "intermediate_size": llama.feedforward,
        "num_hidden_layers": llama.layers,
        "num_attention_heads": llama.heads,
        "num_key_value_heads": llama.kv_heads,
        "head_dim": llama.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": llama.norm_eps,
        "rope_parameters": {"rope_theta": llama.rope_theta, **scaling},
        "max_position_embeddings": llama.max_positions,
        "tie_word_embeddings": llama.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": llama.bos,
        "eos_token_id": None,
    }


def _generation(llama: LlamaConfig, end: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {"bos_token_id": llama.bos, "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return told if end is None else {**told, "eos_token_id": end, "pad_token_id": end}


def _inexpressible(why: str, next: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS025", "this mixture cannot be a directory that transformers loads", why=why, next=next
    )

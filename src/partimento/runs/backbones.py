"""Language models to build upon, and where experts come from: transformers' Llama and MusicGen, as directories.

A Llama is read whole or not at all: config.json, every tensor and its shape, finite numbers, the hash. Of a MusicGen
only the feed-forwards of its decoder are read (fc1 and fc2 of each layer, without bias, GELU between).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs.directories import Tensors, absent, damaged, meta, open_directory, require_finite
from partimento.runs.sources import CONFIG
from partimento.tokens.subwords import FILE, SubwordText, tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from partimento.models.llama import Llama, LlamaConfig
    from partimento.models.weights import WeightsReport

_ROPE = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 128000,
}
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        **_LLAMA3,
        **{"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64},
        **{"intermediate_size": 8192, "tie_word_embeddings": True},
        "rope_scaling": {**_ROPE, "factor": 32.0, "original_max_position_embeddings": 8192},
    },
    "Llama-3.2-3B": {
        **_LLAMA3,
        **{"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128},
        **{"intermediate_size": 8192, "tie_word_embeddings": True},
        "rope_scaling": {**_ROPE, "factor": 32.0, "original_max_position_embeddings": 8192},
    },
    "Llama-3.1-8B": {
        **_LLAMA3,
        **{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "head_dim": 128},
        **{"intermediate_size": 14336, "tie_word_embeddings": False},
        "rope_scaling": {**_ROPE, "factor": 8.0, "original_max_position_embeddings": 8192},
    },
    "musicgen-small": {"num_hidden_layers": 24, "hidden_size": 1024, "ffn_dim": 4096},
    "musicgen-medium": {"num_hidden_layers": 48, "hidden_size": 1536, "ffn_dim": 6144},
    "musicgen-large": {"num_hidden_layers": 48, "hidden_size": 2048, "ffn_dim": 8192},
}
"""What config.json says of published models, known without their weights: enough to plan, never to train."""

_COMPUTED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # a table that old checkpoints hold
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_FC = re.compile(r"(?:decoder\.)?model\.decoder\.layers\.(\d+)\.(fc[12])\.(\w+)")


@dataclass(frozen=True)
class Backbone:
    """A Llama that was read and verified. Its files hold `tensors` by their names; `apart` are names of no use to a
    model (computed tables, the second name of a tied matrix).

    sha256      of its files of weights (`Directory.sha256`); "" on the meta device and of a name of SHAPES
    tokenizer   the folder of its tokenizer.json
    """

    folder: Path
    config: LlamaConfig
    sha256: str
    tensors: Tensors = field(repr=False)
    files: Mapping[str, str] = field(default_factory=dict)
    apart: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Path:
        return self.folder

    def coder(self, length: int) -> SubwordText:
        """What makes ids of words: BOS once, then the subwords. Raises WEIGHTS023."""
        file = self.tokenizer / FILE
        if not file.is_file():
            raise _no_tokenizer(file, "there is no such file")
        found = tokenizer(str(self.tokenizer), marks=False)
        highest = max(found.get_vocab(with_added_tokens=True).values(), default=self.config.vocabulary)
        if highest >= self.config.vocabulary:
            raise _no_tokenizer(file, f"its ids go to {highest}, and the model has {self.config.vocabulary}")
        # Where it lies, wherever a command is given from; a plan makes none of it, and reads no more.
        return SubwordText(str(file.parent.resolve()), length, self.config.bos, None if meta() else commit.sha256(file))


@dataclass(frozen=True)
class Feedforwards:
    """The feed-forwards of a MusicGen's decoder, layer by layer: out = down @ gelu(up @ x), without bias.

    up_L [inner, width] (fc1) and down_L [width, inner] (fc2) are float32, and none on the meta device; `names_L` are
    their two names in `source`. sha256 as of a Backbone.
    """

    source: str
    sha256: str
    width: int
    inner: int
    layers: int
    names_L: tuple[tuple[str, str], ...] = ()
    up_L: tuple[Tensor, ...] = field(default=(), repr=False)
    down_L: tuple[Tensor, ...] = field(default=(), repr=False)


def read_llama(path: str | Path) -> Backbone:
    """The Llama in a folder, or of this name in the hub's local cache; on the meta device also a name of SHAPES.

    Raises WEIGHTS020 (none there), WEIGHTS021 (damaged, or a tensor missing, left over, misshapen, not finite),
    WEIGHTS004 (config.json), MODEL040 (a Llama that is not modelled here).
    """
    from partimento.models.llama import LlamaConfig

    named = _shape(path, "Llama")
    if named is not None:
        return Backbone(Path(str(path)), LlamaConfig.of_transformers(named), "", Tensors({}, {}))
    found = open_directory(path)
    try:
        config = LlamaConfig.of_transformers(found.config)
    except PartimentoError as err:
        err.where = err.where or str(found.folder / CONFIG)
        raise
    apart = _verify(found.tensors, config, found.folder)
    if not meta():
        require_finite(found.tensors, list(found.tensors))
    kept = [name for name in found.tensors if name not in apart]
    tensors = Tensors({n: found.tensors.place[n] for n in kept}, {n: found.tensors.shapes[n] for n in kept})
    return Backbone(found.folder, config, "" if meta() else found.sha256, tensors, found.files, tuple(apart))


def require_llama(path: str | Path, sha256: str) -> Backbone:
    """The Llama that a run was built upon, with these weights. Raises WEIGHTS022 for another, and as `read_llama`."""
    found = read_llama(path)
    if not meta() and found.sha256 != sha256:
        raise PartimentoError(
            "WEIGHTS022",
            f"{path} holds another backbone than the run was built upon",
            where=str(found.folder),
            why=f"the sha256 of its weights begins with {found.sha256[:12]}, not with {sha256[:12]}",
            next="put the directory back that the run was started from",
        )
    return found


def fill_llama(llama: Llama, found: Backbone) -> WeightsReport:
    """Overwrites all weights of the Llama. A head of its own (one that is trained) starts as the embedding where the
    checkpoint is tied.

    Raises MODEL002 with the report, and leaves the Llama as it was, unless every name and shape fits.
    """
    import torch

    from partimento.models.llama import places
    from partimento.models.weights.places import Place, WeightsReport, load

    ours = dict(llama.named_parameters())
    named = {theirs: Place(ours[name]) for name, theirs in places(llama.config).items()}
    untied = found.config.tied and not llama.config.tied
    if untied:
        del named[_HEAD]
    report = load(named, found.tensors, WeightsReport(apart=list(found.apart)))
    if untied:
        with torch.no_grad():
            llama.head.weight.copy_(llama.embedding.weight)
    return report


def read_musicgen_feedforwards(path: str | Path) -> Feedforwards:
    """Of a MusicgenForConditionalGeneration or a MusicgenForCausalLM, in a folder or the hub's local cache; on the meta
    device also a name of SHAPES. Raises WEIGHTS020, WEIGHTS021, WEIGHTS024 (no MusicGen, or none of these parts)."""
    import torch

    named = _shape(path, "musicgen")
    if named is not None:
        sizes = (named["hidden_size"], named["ffn_dim"], named["num_hidden_layers"])
        return Feedforwards(str(path), "", *sizes, tuple(_published_names(layer) for layer in range(sizes[2])))
    found = open_directory(path)
    config = _musicgen_decoder(found.config, found.folder)
    width, inner, layers = (config[name] for name in ("hidden_size", "ffn_dim", "num_hidden_layers"))
    parts = {(int(at[1]), at[2], at[3]): name for name in found.tensors if (at := _FC.fullmatch(name))}
    shapes = {"fc1": (inner, width), "fc2": (width, inner)}
    wanted = {(layer, part, "weight"): shape for layer in range(layers) for part, shape in shapes.items()}
    for key in sorted(parts.keys() - wanted.keys()):
        why = "experts have no bias" if key[2] == "bias" else f"config.json says {layers} layers"
        raise _no_feedforwards(found.folder, f"it has {parts[key]}, and {why}")
    for key, shape in wanted.items():
        if key not in parts:
            raise _no_feedforwards(found.folder, f"{'.'.join(map(str, key))} of its decoder is missing")
        if found.tensors.shapes[parts[key]] != shape:
            there = list(found.tensors.shapes[parts[key]])
            raise damaged(found.tensors.place[parts[key]], f"{parts[key]}: {there} where {list(shape)} belongs")
    names_L = tuple((parts[layer, "fc1", "weight"], parts[layer, "fc2", "weight"]) for layer in range(layers))
    facts = (found.folder.name, "" if meta() else found.sha256, width, inner, layers, names_L)
    if meta():
        return Feedforwards(*facts)
    require_finite(found.tensors, [name for names in names_L for name in names])
    up_L, down_L = ([found.tensors[names[part]].to(torch.float32) for names in names_L] for part in (0, 1))
    return Feedforwards(*facts, tuple(up_L), tuple(down_L))


def _shape(path: str | Path, begins: str) -> dict[str, Any] | None:
    """Of a name of SHAPES. Raises WEIGHTS020 where weights are wanted and there is no folder of that name."""
    name = str(path)
    if not name.startswith(begins) or name not in SHAPES or Path(name).exists():
        return None
    if not meta():
        why = "it is the name of a shape, which plans and has no weights"
        owner = "meta-llama" if begins == "Llama" else "facebook"
        raise absent(path, why, f"give the folder of the model, or its name in the hub's cache: {owner}/{name}")
    return SHAPES[name]


def _published_names(layer: int) -> tuple[str, str]:
    """Of fc1 and fc2 in the checkpoints that facebook/musicgen-small, -medium and -large are published as."""
    begins = f"decoder.model.decoder.layers.{layer}."
    return f"{begins}fc1.weight", f"{begins}fc2.weight"


def expected(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of such a checkpoint by its name."""
    import torch

    from partimento.models.llama import Llama, places

    with torch.device("meta"):
        ours = dict(Llama(config).named_parameters())
    return {theirs: tuple(ours[name].shape) for name, theirs in places(config).items()}


def _verify(tensors: Tensors, config: LlamaConfig, folder: Path) -> list[str]:
    """Names and shapes; gives the names that are of no use. Raises WEIGHTS021."""
    import torch

    wanted = expected(config)
    apart = [name for name in tensors if name not in wanted and _COMPUTED.fullmatch(name)]
    if config.tied and _HEAD in tensors:
        if _EMBEDDING in tensors and not meta() and not torch.equal(tensors[_HEAD], tensors[_EMBEDDING]):
            raise damaged(tensors.place[_HEAD], f"config.json says that {_HEAD} is {_EMBEDDING}, and they differ")
        apart.append(_HEAD)
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is left over" for name in tensors if name not in wanted and name not in apart]
    wrong += [
        f"{name}: {list(tensors.shapes[name])} where {list(shape)} belongs"
        for name, shape in wanted.items()
        if name in tensors and tensors.shapes[name] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise damaged(folder / "config.json", "; ".join(wrong[:4]) + more)
    return apart


def _musicgen_decoder(config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """What config.json says of the decoder, in either layout. Raises WEIGHTS024."""
    sort = config.get("model_type")
    decoder = config.get("decoder") if sort == "musicgen" else config if sort == "musicgen_decoder" else None
    if not isinstance(decoder, Mapping):
        raise _no_feedforwards(folder, f"its config.json says model_type {sort!r}")
    # What transformers leaves out of a config.json: the sizes of MusicGen small.
    decoder = {**SHAPES["musicgen-small"], "activation_function": "gelu", **decoder}
    for name in SHAPES["musicgen-small"]:
        if type(decoder[name]) is not int or not 1 <= decoder[name] <= 2**20:
            raise _no_feedforwards(folder, f"its {name} is {decoder[name]!r}")
    if decoder["activation_function"] != "gelu":
        raise _no_feedforwards(
            folder, f"its activation is {decoder['activation_function']!r}, and that of experts gelu"
        )
    return decoder


def _no_tokenizer(file: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS023",
        f"there is no tokenizer for the backbone in {file.parent}",
        where=str(file),
        why=why,
        next="put the tokenizer.json beside the weights that was published with them",
    )


def _no_feedforwards(folder: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "WEIGHTS024",
        f"the feed-forwards of {folder.name} cannot become experts",
        where=str(folder),
        why=why,
        next="give the folder of a MusicGen of transformers, or leave model.experts_from out",
    )

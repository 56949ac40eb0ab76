"""The configuration of a run: one strict, typed, frozen object, read from TOML or JSON.

`load` reads a file, lays `section.key=value` overrides over it and validates the whole. Every failure is a coded error
that names the file and line (or the override) and the nearest known key. The resolved object is what a run stores.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from partimento.errors import PartimentoError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class CodesData(Section):
    """Where windows of codes come from."""

    pack: str
    """Folder of the pack, relative to the working directory, or a URL that fsspec reads."""
    codec: str | None = None
    """What decodes the pack's codes for demos, where the name in the pack does not find it: a folder or hub name."""
    window: Positive = 256
    """Grid steps that the model sees at once (frames, for every pattern but `flat`)."""
    begin_share: Share = 0.0
    """Share of the windows that begin where their clip begins. Playing from nothing begins there, and only there has a
    model nothing but its condition to go by; of long clips a true beginning is drawn rarely."""
    null_share: Share = 0.1
    """Share of the items whose tags are dropped, so that guidance has a null condition to work with."""
    tag_dropout: Share = 0.0
    """Share of single tags that are dropped from an item that keeps its condition."""
    tag_shuffle: bool = False
    """Give the tags of an item in another order each time; for conditions that have an order."""
    tag_limit: Positive | None = None
    """Keep so many tags of an item at most, after dropping and shuffling; all by default."""
    with_tags: list[str] = []
    """Train on the clips that have all of these tags (whole tags: "vocals" is not "no vocals")."""
    without_tags: list[str] = []
    """Leave out the clips that have any of these tags."""
    licence: str | None = None
    """Train on the clips whose licence asks for no more than these obligations: attribution, share-alike,
    non-commercial, no-derivatives, separated by commas, or none. A licence that is not known is more than that."""
    corrupt_budget: Annotated[int, Field(ge=0)] = 0
    """Damaged clips that are borne before the run stops: their items are drawn again from others, and they are counted
    in the log as corrupt_clips. By default the first one stops it."""


class SoundData(Section):
    """Where crops of audio come from, for training a codec."""

    folders: list[str] = []
    """Folders of recordings; about 15 % of the files are held out, by their hashed name."""
    credits: list[str] = []
    """What the recordings are and their licences, for the card of the codec."""
    band_loops: Annotated[int, Field(ge=0)] = 160
    """Loops of the synthetic band that are played into memory at the start (some 0.3 s each), songs held out alike."""
    band_share: Share = 0.5
    """Share of the crops that come from the band, when there are recordings too."""
    crop: Positive = 16384
    """Samples in one crop; a multiple of the codec's hop of 512."""

    @model_validator(mode="after")
    def _has_a_source(self) -> SoundData:
        if not self.folders and not self.band_loops:
            raise ValueError("there is nothing to train on: give data.folders, or data.band_loops above 0")
        if self.crop % 512:
            raise ValueError(f"data.crop is {self.crop}, which is not a multiple of the hop, 512")
        return self


class DecoderModel(Section):
    """The code decoder of the `rvq` family (`models/decoder.py`)."""

    width: Positive = 256
    layers: Positive = 6
    heads: Positive = 4
    kv_heads: Positive | None = None
    """Groups of keys and values; all heads have their own by default."""
    feedforward: Positive | None = None
    """Inner width of the feed-forward block; 4 x width for GELU, 8/3 x width (rounded to 32) for SwiGLU by default."""
    activation: Literal["gelu", "swiglu"] = "swiglu"
    norm: Literal["layer", "rms"] = "rms"
    positions: Literal["rotary", "sinusoidal", "learned"] = "rotary"
    qk_norm: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    attention_scale: float | None = None
    """1/sqrt(head width) unless given; a field of the weight family, never a silent default."""
    pattern: Literal["delay", "parallel", "flat", "dia"] | list[int] = "delay"
    """How the K codebooks are laid out over steps: a name, or one delay a codebook."""
    tags: bool = True
    """Condition on the tags of the pack; an untagged pack trains unconditionally."""


class DiaData(CodesData):
    """Windows of codes with the words that belong to them."""

    text: Literal["tags", "caption", "both"] = "both"
    """What of a clip is told to the model. both: its tags, then its caption, where it has one."""
    begin_share: Share = 0.1
    tag_shuffle: bool = True
    """Give the tags of an item in another order each time."""
    caption_dropout: Share = 0.0
    """Share of the captions that are dropped from items that have tags too, so that tags alone mean something."""


class DiaModel(Section):
    """Text encoder and code decoder of the `dia` family (`models/dia.py`)."""

    weights: str | None = None
    """Folder of weights to start from (`partimento weights import`: Dia, MusicGen; or of a run, `weights export`). What
    they are decides the architecture then, and only what says how they are trained may be given beside."""
    width: Positive = 256
    layers: Positive = 6
    heads: Positive = 4
    kv_heads: Positive | None = None
    """Groups of keys and values of the self attention; all heads have their own by default."""
    head_width: Positive | None = None
    """width / heads unless given."""
    feedforward: Positive | None = None
    """Inner width of the SwiGLU blocks; 8/3 x width, rounded to 32, by default."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    qk_norm: bool = True
    attention_scale: float | None = None
    """Factor of the attention scores, of both networks: 1/sqrt(head width) unless given. Published Dia has 1.0, which a
    training from scratch does not survive."""
    cross_attention_rope: bool = False
    """Rotate queries and keys of the cross attention too, as Dia's weights of April 2025 were trained."""
    text_width: Positive = 128
    text_layers: Positive = 2
    text_heads: Positive = 4
    text_feedforward: Positive | None = None
    text_length: Positive | None = None
    """Ids of a text at most: a tag is one with `tag_tokens`, otherwise every byte of UTF-8 is. 64 with tag tokens and
    256 without by default (never more than the weights have been given for)."""
    tag_tokens: bool = True
    """Give each tag of the pack an id of its own. Without, tags are spelled, and unknown ones can be asked for."""
    null: Literal["empty", "zeros"] = "empty"
    """What an item is told that lost its condition: nothing at all, or zeros in place of its text (published Dia)."""
    pattern: Literal["delay", "parallel", "flat", "dia"] | list[int] | None = None
    """How the K codebooks are laid out over steps: a name, or one delay a codebook. For stereo codes a name stands for
    that pattern in each channel. By default that of the weights, else delay."""
    freeze: list[str] = []
    """Weights of `weights` that are not trained: those whose name matches one of these regular expressions. They are
    not in the checkpoints either, which name their folder."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Train adapters of this rank beside frozen weights (LoRA); 0 trains the weights themselves."""
    lora_alpha: Annotated[float, Field(gt=0)] | None = None
    """Adapters count alpha / rank; alpha is the rank unless given."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_targets: Annotated[list[Literal["attention", "cross", "feedforward", "head"]], Field(min_length=1)] = [
        "attention",
        "cross",
    ]

    @model_validator(mode="after")
    def _architecture_is_of_the_weights(self) -> DiaModel:
        beside = {"weights", "pattern", "dropout", "text_length", "freeze"}
        # Compared with the defaults: a run stores its configuration with all of them.
        changed = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if self.weights is None and (self.freeze or self.lora_rank):
            raise ValueError("model.freeze and model.lora_rank keep weights as they are: give model.weights")
        if not self.lora_rank and (given := sorted(name for name in changed if name.startswith("lora_"))):
            raise ValueError(f"model.{given[0]} means nothing without adapters: give model.lora_rank")
        if self.weights is not None and (given := sorted(n for n in changed - beside if not n.startswith("lora_"))):
            raise ValueError(f"model.{given[0]} is decided by model.weights: give one of the two")
        return self


class AutoencoderModel(Section):
    """Our own codec (`waveform/autoencoder.py`)."""

    width: Positive = 256
    expansion: Positive = 3
    """Inner width of the blocks, as a multiple of `width`."""
    encoder_layers: Positive = 3
    decoder_layers: Positive = 5
    latent: Positive = 32
    """Width of the vector that the residual quantizer codes."""
    codebooks: Positive = 9
    cardinality: Annotated[int, Field(ge=2, le=65536)] = 1024
    start_step: Positive = 150
    """Steps without quantization, after which the codebooks are set by k-means on the latents."""
    book_dropout: Share = 0.25
    """Share of the items that are given only their first n codebooks (n drawn evenly): coarse codes mean something."""
    wave_weight: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)] = [200.0, 50.0]
    """Weight of the mean absolute error of samples beside the mel distance, at the first and the last step."""
    commit_weight: Annotated[float, Field(ge=0)] = 0.25
    """Weight of the distance between latents and their codes."""


class Group(Section):
    """Parameters whose names match `pattern` (regular expression, searched); the first group that matches claims."""

    pattern: str
    optimizer: Literal["adamw", "muon"] | None = None
    """The run's by default (`optim.name`, with AdamW for what Muon cannot take)."""
    lr: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the rate."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None


class Optim(Section):
    name: Literal["adamw", "muon"] = "adamw"
    """muon: hidden matrices by Muon (rate `muon_lr`), everything else by AdamW."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak rate of AdamW."""
    muon_lr: Annotated[float, Field(gt=0)] = 0.02
    """Peak rate of Muon; follows the same schedule."""
    muon_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    schedule: Literal["cosine", "linear", "exponential", "wsd", "constant"] = "cosine"
    """How the rate goes from its peak after the warm-up to `min_lr` at the last step; linear goes to 0; wsd (warm-up,
    stable, decay) stays at the peak but for the last `decay_share`."""
    min_lr: Share = 0.1
    """Where the schedule ends, as a share of `lr`."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """wsd: share of the steps in which the rate goes down."""
    warmup: Annotated[int, Field(ge=0)] = 100
    """Optimizer steps of linear warm-up."""
    betas: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.9, 0.95]
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    groups: list[Group] = []
    """Exceptions by name, before the built-in rule; `partimento plan` prints who claims what."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Global gradient norm above which gradients are scaled down."""
    adagc: bool = False
    """Clip every tensor to the running mean of its own norms instead (AdaGC); `clip` holds while that is warming up."""
    batch: Positive = 8
    """Items in one micro-batch, over all devices."""
    accumulate: Positive = 1
    """Micro-batches in one optimizer step."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the averaged weights (reached by a warm-up); 0 turns them off."""


class Loss(Section):
    """What is added to the plain cross entropy in training. Validation and reports are plain always."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log-sum-exp of the logits, which keeps them from drifting; 1e-4 is usual."""
    codebook_weights: Literal["equal", "ramp", "first", "learned"] | list[Annotated[float, Field(ge=0)]] = "equal"
    """ramp: 1 + codebook_ramp k / (K - 1). first: book 0 counts 1 + codebook_ramp. learned: by how far the running loss
    of each book is from what it could be. Always scaled to a mean of 1."""
    codebook_ramp: Annotated[float, Field(ge=0)] = 0.5


class Guard(Section):
    """What watches the training. A step whose loss or gradient is not finite is skipped always."""

    sigma: Annotated[float, Field(gt=0)] | None = 6.0
    """Skip a step whose loss or gradient norm is so many robust deviations above the median of the last accepted ones;
    with 1e9 (or null, in JSON) only what is not finite is skipped."""
    window: Annotated[int, Field(ge=16)] = 128
    """Accepted steps that are remembered; the outlier rule begins when half of them are there."""
    patience: Positive = 10
    """Skipped steps in a row (or four times as many within a window) that mean that the weights have gone wrong."""
    rollbacks: Annotated[int, Field(ge=0)] = 2
    """How often the run goes back to its last good checkpoint, with a lower rate and other data, before it gives up."""
    rollback_lr: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor on the rate after each of them."""
    stop_after: Positive | None = None
    """End after so many validations without a better score."""
    stop_overfit: Positive | None = None
    """End after so many validations in a row in which the score got worse while the training loss got better."""


class Stage(Section):
    """A part of the training with other settings; what is not given stays as it was."""

    start: Positive
    """First optimizer step of the stage (0-based)."""
    window: Positive | None = None
    """Grid steps of a window (codes), samples of a crop (sound)."""
    batch: Positive | None = None
    accumulate: Positive | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    """Factor on the rate of the schedule."""


class Train(Section):
    steps: Positive = 1000
    """Optimizer steps of the whole run; the schedule is a function of it."""
    stages: list[Stage] = []
    """Curriculum, e.g. [{start = 4000, window = 1024, batch = 4, lr = 0.5}]; one run that resumes in every stage."""
    seed: int = 0
    """Key of everything that is drawn: weights, windows, tags, dropout."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """fp32 is true float32; tf32 lets a GPU round the factors of products to 10 bits; bf16 runs products in bfloat16.
    Weights, moments and losses are float32 always."""
    device: Literal["auto", "cpu", "cuda", "mps", "tpu"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """On several devices: every one holds all weights (ddp), or its share of them (fsdp)."""
    compile: bool | None = None
    """Compile the blocks (torch.compile); by default on a GPU only."""
    cuda_graphs: bool = False
    """Record forward and backward once and replay them; fixed shapes, on a CUDA device."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that are computed again in the backward pass instead of kept: none, all but matrix products, all."""
    deterministic: bool = False
    """Deterministic kernels on a GPU, for resuming bit for bit there (slower). A CPU always has them."""
    log_every: Positive = 10
    """Steps between lines of the log; also how often the figures of the steps are read from the device."""
    valid_every: Positive = 200
    valid_items: Positive = 64
    """Held-out windows scored at each validation, always the same ones."""
    metric: str | None = None
    """Figure of the validation that chooses the best checkpoint, lower is better; the family's score by default."""
    save_every: Positive = 200
    keep: Annotated[int, Field(ge=2)] = 3
    """Newest checkpoints kept beside the best; at least 2, so that a damaged one has a predecessor."""
    archive_every: Positive | None = None
    """Steps between archives: checkpoints under a name with the time, which `keep` does not touch."""
    keep_archives: Positive = 10
    save_sharded: bool = False
    """With fsdp: every device writes its share (for models that no single one can hold)."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Save and stop after this long; the same command goes on from there."""


class Demo(Section):
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between demos; 0 makes them at the end only."""
    seconds: Annotated[float, Field(gt=0)] = 5.0
    temperatures: list[Annotated[float, Field(ge=0)]] = [0.0, 0.5, 1.0]
    """None ([]) switches demos off, and no codec is needed then."""
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    top_k: Annotated[int, Field(ge=0)] = 0
    """Keep the k likeliest codes; 0 keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    prompts: Annotated[list[str], Field(min_length=1)] = [""]
    """What to play: tags separated by commas, then, after a bar, text: "techno, A minor", "techno | a dark pulse",
    "| a slow waltz". An empty one plays unconditionally (the null condition)."""
    guidance: Annotated[list[float], Field(min_length=1)] = [1.0]
    """Strengths s of u + s (c - u); a prompt that is empty is played once, without."""
    recordings: str | None = None
    """Folder that the pack was encoded from; with it, a held-out original is kept beside its reconstruction."""


class RvqConfig(Section):
    """Decoder-only transformer over codec frames, tagged or unconditional."""

    family: Literal["rvq"]
    data: CodesData
    model: DecoderModel = DecoderModel()
    optim: Optim = Optim()
    loss: Loss = Loss()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _stages_in_order(self) -> RvqConfig:
        return _checked_stages(self)


class DiaConfig(Section):
    """Text encoder and code decoder with cross attention: music from tags and captions."""

    family: Literal["dia"]
    data: DiaData
    model: DiaModel = DiaModel()
    optim: Optim = Optim()
    loss: Loss = Loss()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _stages_in_order(self) -> DiaConfig:
        return _checked_stages(self)


class CodecConfig(Section):
    """Our own neural codec."""

    family: Literal["codec"]
    data: SoundData = SoundData()
    model: AutoencoderModel = AutoencoderModel()
    optim: Optim = Optim()
    guard: Guard = Guard()
    train: Train = Train()
    demo: Demo = Demo()

    @model_validator(mode="after")
    def _stages_in_order(self) -> CodecConfig:
        return _checked_stages(self)


AnyConfig = TypeVar("AnyConfig", RvqConfig, DiaConfig, CodecConfig)


def _checked_stages(config: AnyConfig) -> AnyConfig:
    starts = [stage.start for stage in config.train.stages]
    if starts != sorted(set(starts)) or (starts and starts[-1] >= config.train.steps):
        raise ValueError(f"train.stages start at {starts}: they must ascend and stay below train.steps")
    return config


CodesConfig = RvqConfig | DiaConfig
Config = CodesConfig | CodecConfig
FAMILIES: dict[str, type[RvqConfig] | type[DiaConfig] | type[CodecConfig]] = {
    "rvq": RvqConfig,
    "dia": DiaConfig,
    "codec": CodecConfig,
}


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, for editors."""
    return TypeAdapter(Annotated[Config, Field(discriminator="family")]).json_schema()


def config_hash(config: Config) -> str:
    """sha256 over the resolved configuration, keys sorted."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path` (TOML, or JSON by its suffix), lay `section.key=value` overrides over it, validate.

    Raises CONFIG001 (unreadable), CONFIG002 (unknown key), CONFIG003 (bad value), CONFIG004 (malformed override).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as err:
        raise PartimentoError(
            "CONFIG001",
            f"cannot read the configuration {path}",
            why=err.strerror,
            next="ls configs/experiments",
        ) from err
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as err:
        raise PartimentoError("CONFIG001", f"{path} is not valid {path.suffix[1:] or 'TOML'}", why=str(err)) from err
    lines = _key_lines(text) if path.suffix != ".json" else {}
    return parse(tree, overrides, name=str(path), lines=lines)


def parse(
    tree: dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    name: str = "configuration",
    lines: dict[tuple[str, ...], int] | None = None,
) -> Config:
    """Validate a configuration given as plain data; see `load` for the errors."""
    lines = dict(lines or {})
    tree = json.loads(json.dumps(tree))
    origin: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _read_override(override)
        _lay(tree, keys, value, override)
        origin[keys] = f"command line: {override}"

    def where(keys: tuple[str, ...]) -> str:
        while keys:
            if keys in origin:
                return origin[keys]
            if keys in lines:
                return f"{name}, line {lines[keys]}"
            keys = keys[:-1]
        return name

    family = tree.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise PartimentoError(
            "CONFIG003",
            f"family is {family!r}; it must be one of {', '.join(FAMILIES)}",
            where=where(("family",)),
            next='set family = "rvq" at the top of the file',
        )
    try:
        return FAMILIES[family].model_validate_json(json.dumps(tree))
    except ValidationError as err:
        raise _coded(err, FAMILIES[family], where) from err


def _read_override(override: str) -> tuple[tuple[str, ...], Any]:
    key, eq, raw = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not eq or not all(re.fullmatch(r"[A-Za-z_]\w*", k) for k in keys):
        raise PartimentoError(
            "CONFIG004",
            f"cannot read the override {override!r}",
            why="an override has the form section.key=value",
            next="try e.g. optim.lr=3e-4",
        )
    try:
        return keys, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, raw


def _lay(tree: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise PartimentoError("CONFIG004", f"{key!r} is a value, not a section", where=f"command line: {override}")
    tree[keys[-1]] = value


def _key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line of each key of a TOML text; tomllib keeps none. Keys inside inline tables get their table's line."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.\-\s\"']+?)\s*\]\s*(#.*)?$", line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            found.setdefault(table, number)
        elif assignment := re.match(r"\s*([\w.\-\"']+)\s*=", line):
            found.setdefault(table + tuple(part.strip("\"'") for part in assignment[1].split(".")), number)
    return found


def _known_keys(model: type[BaseModel]) -> dict[str, list[str]]:
    """Section name ("" for the top) -> its keys."""
    known: dict[str, list[str]] = {"": list(model.model_fields)}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known[name] = list(field.annotation.model_fields)
    return known


def _coded(err: ValidationError, model: type[BaseModel], where: Any) -> PartimentoError:
    """The first unknown key if there is one (a misspelling explains the missing key too), else the first bad value."""
    problems = err.errors(include_url=False)
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    keys = tuple(str(part) for part in problem["loc"])
    dotted = ".".join(k for k in keys if not k.isdigit() and "[" not in k)
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if unknown:
        known = _known_keys(model)
        section = keys[0] if len(keys) > 1 else ""
        near = difflib.get_close_matches(keys[-1], known.get(section, []), n=1, cutoff=0.6)
        hint = f"{section}.{near[0]}".lstrip(".") if near else None
        if hint is None:
            elsewhere = [f"{s}.{keys[-1]}".lstrip(".") for s, names in known.items() if keys[-1] in names]
            every = [f"{s}.{n}".lstrip(".") for s, names in known.items() for n in names]
            hint = next(iter(elsewhere or difflib.get_close_matches(dotted, every, n=1, cutoff=0.5)), None)
        return PartimentoError(
            "CONFIG002",
            f"unknown key {dotted!r}{others}" + (f"; did you mean {hint!r}?" if hint else ""),
            where=where(keys),
            next="partimento config schema",
        )
    if not keys:  # a rule over several keys, which names them
        message = problem["msg"].removeprefix("Value error, ")
    elif problem["type"] == "missing":
        message = f"{dotted!r} is required{others}"
    else:
        message = f"{dotted!r} is {problem.get('input')!r}: {problem['msg'].lower()}{others}"
    return PartimentoError("CONFIG003", message, where=where(keys), next="partimento config schema")

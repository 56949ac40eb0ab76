"""The sections of a configuration, one class each: what they mean, what they may hold, and the defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

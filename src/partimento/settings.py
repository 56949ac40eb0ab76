"""The sections of a configuration that all families have, one class each: what they mean, what they may hold, and the
defaults. (`code_settings` and `sound_settings` have those of data and model.)"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


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
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = []
    """Where to show the run besides its own log (pip install 'partimento[trackers]'); none can slow or stop it."""


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

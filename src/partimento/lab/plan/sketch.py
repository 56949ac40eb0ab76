"""The model of a configuration without its weights, and what its data holds: all that a plan is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from partimento.audio import files
from partimento.audio.containers import inspect
from partimento.audio.declared import Fault
from partimento.config import CodecConfig, CodesConfig, Config
from partimento.tokens.text import TagWords
from partimento.training.stages import Settings, stages

LOOP_SECONDS = 8.0  # of the band, about
TRAIN_SHARE = 0.85  # of recordings, by their hashed names


@dataclass(frozen=True)
class Data:
    """The train split after selection. `codes` are frames times codebooks (for a codec: those that it will make);
    `slots` are the windows of an epoch, those of the first stage."""

    clips: int
    frames: int
    codes: int
    hours: float
    slots: float
    codebooks: int
    uncounted: int
    """Files whose length their header does not tell."""


@dataclass(frozen=True)
class Sketch:
    """`module` and `objective` have shapes and no contents where the family allows it. `inputs(stage)` is one
    micro-batch of a stage for the objective; `rows` of a window cover one frame, and `text` is the length of the texts
    that are read beside it."""

    config: Config
    module: nn.Module
    objective: nn.Module
    data: Data
    stages: list[Settings]
    rows: int
    text: int
    inputs: Callable[[Settings], tuple[Tensor | None, ...]]


def sketch(config: Config) -> Sketch:
    """Raises what opening the data raises (PACK..., TAGS..., LICENCE..., SYS004, AUDIO...), and MODEL001."""
    return _sound(config) if isinstance(config, CodecConfig) else _codes(config)


def _codes(config: CodesConfig) -> Sketch:
    from partimento.training.tasks.codes import CodesTask

    # Without demos no codec is opened, which would need its weights.
    silent = config.model_copy(update={"demo": config.demo.model_copy(update={"temperatures": []})})
    device = torch.device("meta")
    with device:
        task = CodesTask(silent, device)
    spec = task.pack.spec
    frames = int(task.pack.clips.frames[task.train.clips].sum())
    data = Data(
        clips=len(task.train.clips),
        frames=frames,
        codes=frames * spec.codebooks,
        hours=spec.seconds(frames) / 3600,
        slots=task.train.slots,
        codebooks=spec.codebooks,
        uncounted=0,
    )
    objective = task.objective.train()
    return Sketch(
        config,
        task.module,
        objective,
        data,
        stages(config),
        task.pattern.stride,
        0 if isinstance(task.coder, TagWords) else task.coder.length,
        lambda stage: task.inputs(task.batch(stage.start, 0)),
    )


def _sound(config: CodecConfig) -> Sketch:
    """The recordings are counted by their headers, not decoded. The model is small, and made whole."""
    from partimento.training.tasks.sound import SAMPLE_RATE, SoundObjective
    from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig

    names = {field.name for field in dataclasses.fields(AutoencoderConfig)} & type(config.model).model_fields.keys()
    network = AutoencoderConfig(**{name: getattr(config.model, name) for name in names})
    with torch.random.fork_rng(devices=[]):
        module = Autoencoder(network)
    found = [_seconds(path) for folder in config.data.folders for path in files.discover(Path(folder))]
    seconds = TRAIN_SHARE * (sum(known for known in found if known is not None) + LOOP_SECONDS * config.data.band_loops)
    frames = int(seconds * SAMPLE_RATE / network.hop)
    data = Data(
        clips=round(TRAIN_SHARE * (len(found) + config.data.band_loops)),
        frames=frames,
        codes=frames * network.codebooks,
        hours=seconds / 3600,
        slots=seconds * SAMPLE_RATE / config.data.crop,
        codebooks=network.codebooks,
        uncounted=found.count(None),
    )

    def inputs(stage: Settings) -> tuple[Tensor, ...]:
        books_B = torch.full((stage.batch,), network.codebooks)
        return torch.zeros(stage.batch, stage.window), books_B, torch.tensor(1.0)

    return Sketch(config, module, SoundObjective(module, config).train(), data, stages(config), network.hop, 0, inputs)


def _seconds(path: Path) -> float | None:
    try:
        declared = inspect(path)
    except Fault as fault:
        raise fault.at(path) from fault
    if declared.frames is None or declared.sample_rate is None:
        return None
    return declared.frames / declared.sample_rate

"""The model of a configuration without its weights, and what its data holds: all that a plan is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from partimento.audio import files
from partimento.audio.containers import inspect
from partimento.audio.declared import Fault
from partimento.config import CodecConfig, CodesConfig, Config, MotConfig, RestoreConfig, SoundConfig
from partimento.errors import PartimentoError
from partimento.lab.plan.stated import Stated, with_shapes
from partimento.tokens.spec import CodecSpec
from partimento.tokens.text import NO_WORDS, TagWords
from partimento.training import pairfiles
from partimento.training.groups import Claim, claim
from partimento.training.stages import Settings, stages

if TYPE_CHECKING:
    from partimento.lab.plan.sounding import Sounding
    from partimento.training.task import Rival
    from partimento.training.tasks.sound import SoundObjective

LOOP_SECONDS = 8.0  # of the band, about
TRAIN_SHARE = 0.85  # of recordings, by their hashed names


@dataclass(frozen=True)
class Data:
    """The train split after selection. `codes` are frames times codebooks (for a codec: those that it will make; a
    restorer has none, and its frames are samples); `slots` are the windows of an epoch, those of the first stage.
    `clips` is None where only hours were stated."""

    clips: int | None
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
    that are read beside it. `spec` is that of the codes, None for sound. `sounding` is there for the families that make
    sound, whose second player it knows. `experts` is what a mixture takes from another model (`runs.transplanted`).
    `stated` stands for the pack where there is none; `data` is None where it does not tell how much there is."""

    config: Config
    module: nn.Module
    objective: nn.Module
    data: Data | None
    stages: list[Settings]
    rows: int
    text: int
    inputs: Callable[[Settings], tuple[Tensor | None, ...]]
    sounding: Sounding | None = None
    spec: CodecSpec | None = None
    experts: dict[str, Any] | None = None
    stated: Stated | None = None

    def rivals(self, config: Config) -> list[Claim]:
        """What the second player's optimizer claims, with the settings of `config`; [] where there is none."""
        if self.sounding is None or isinstance(config, CodesConfig):
            return []
        rival = self.sounding.with_settings(config)
        return [] if rival is None else claim(rival.module, rival.optim)


def sketch(config: Config, stated: Stated | None = None) -> Sketch:
    """Of codes also without their pack, as they are `stated`.

    Raises what opening the data raises (PACK..., TAGS..., LICENCE..., SYS004, AUDIO..., PAIRS003), and what making the
    model raises (MODEL001, WEIGHTS020, ...).
    """
    if not isinstance(config, CodesConfig):
        return _sound(config)
    try:
        return _codes(config) if stated is None else _stated_codes(config, stated)
    except PartimentoError as err:
        if err.code == "WEIGHTS020" and isinstance(config, MotConfig):
            raise with_shapes(err, config.model.backbone, config.model.experts_from) from err
        if err.code == "PACK001":
            err.next = f"plan without it: --codec NAME --hours H (to train: {err.next})"
        raise


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
        spec=spec,
        experts=task.description.get("experts"),
    )


def _stated_codes(config: CodesConfig, stated: Stated) -> Sketch:
    """No tags are known without a pack; texts are as long as the coder makes all of them."""
    from partimento.training import building
    from partimento.training.objective import CodesObjective

    spec, planned = stated.spec, stages(config)
    with torch.device("meta"):
        built = building.build(config, spec, (), positions=max(stage.window for stage in planned))
    both_ways = isinstance(config, MotConfig) and config.model.caption_share > 0
    objective = CodesObjective(built.module, spec.cardinality, config.loss, both_ways=both_ways).train()

    def inputs(stage: Settings) -> tuple[Tensor | None, ...]:
        with torch.device("meta"):
            grid_BSK = torch.empty(stage.batch, stage.window + 1, spec.codebooks, dtype=torch.int16)
            keep_B = torch.ones(stage.batch, dtype=torch.bool)
            weights_K = None if config.loss.codebook_weights == "equal" else torch.ones(spec.codebooks)
            told = [torch.zeros(stage.batch, 0)]
        if not isinstance(built.coder, TagWords):
            told = [tensor.to("meta") for tensor in built.coder.batch([NO_WORDS] * stage.batch)]
        return (grid_BSK, keep_B, weights_K, *told, *([keep_B] if both_ways else []))

    data, frames, stride = None, stated.frames, built.pattern.stride
    if frames is not None:
        data = Data(
            clips=None,
            frames=frames,
            codes=frames * spec.codebooks,
            hours=spec.seconds(frames) / 3600,
            slots=max(1.0, frames * stride / planned[0].window),
            codebooks=spec.codebooks,
            uncounted=0,
        )
    return Sketch(
        config,
        built.module,
        objective,
        data,
        planned,
        stride,
        0 if isinstance(built.coder, TagWords) else built.coder.length,
        inputs,
        spec=spec,
        experts=built.how.get("experts"),
        stated=stated,
    )


def _sound(config: SoundConfig) -> Sketch:
    """The recordings are counted by their headers, not decoded. The networks are small, and made whole."""
    from partimento.lab.plan.sounding import Sounding
    from partimento.training.tasks.sound import DISTANCES

    with torch.random.fork_rng(devices=[]):
        objective, rival = _codec(config) if isinstance(config, CodecConfig) else _restorer(config)
    hop, books = (config.model.hop, config.model.codebooks) if isinstance(config, CodecConfig) else (1, 0)

    def inputs(samples: int, items: int = 1) -> tuple[Tensor, ...]:
        beside = torch.full((items,), books) if books else torch.zeros(items, samples)
        return torch.zeros(items, samples), beside

    return Sketch(
        config,
        objective.network,
        objective.train(),
        _heard(config),
        stages(config),
        hop,
        0,
        lambda stage: (*inputs(stage.window, stage.batch), torch.ones(len(DISTANCES)), None),
        Sounding(config, objective, rival, inputs),
    )


def _codec(config: CodecConfig) -> tuple[SoundObjective, Rival | None]:
    from partimento.training.tasks.codec import CodecObjective, network_config
    from partimento.training.tasks.sound import judges, rival
    from partimento.waveform.autoencoder import Autoencoder

    module, discriminators = Autoencoder(network_config(config.model)), judges(config)
    if config.model.freeze_codes:
        kept = module.codes_state()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in kept)
    objective = CodecObjective(module, config.model.sample_rate, config.loss, discriminators)
    return objective, rival(config, objective, discriminators)


def _restorer(config: RestoreConfig) -> tuple[SoundObjective, Rival | None]:
    from partimento.training.tasks.restore import RestoreObjective, generator
    from partimento.training.tasks.sound import judges, rival

    module, discriminators = generator(config.model), judges(config)
    objective = RestoreObjective(module, config.data.sample_rate, config.loss, discriminators)
    return objective, rival(config, objective, discriminators)


def _heard(config: SoundConfig) -> Data:
    """What of the recordings is trained on, about."""
    rate = sample_rate(config)
    if isinstance(config, RestoreConfig) and config.data.pairs is not None:
        _, rows, _ = pairfiles.read(Path(config.data.pairs))
        samples = {row.recording: row.samples for row in rows if row.split == "train"}
        seconds, clips, uncounted = sum(samples.values()) / rate, len(samples), 0
    else:
        lengths = [_seconds(path) for folder in config.data.folders for path in files.discover(Path(folder))]
        known = sum(length for length in lengths if length is not None)
        seconds = TRAIN_SHARE * (known + LOOP_SECONDS * config.data.band_loops)
        clips, uncounted = round(TRAIN_SHARE * (len(lengths) + config.data.band_loops)), lengths.count(None)
    rows_, books = (config.model.hop, config.model.codebooks) if isinstance(config, CodecConfig) else (1, 0)
    frames = int(seconds * rate / rows_)
    return Data(
        clips=clips,
        frames=frames,
        codes=frames * books,
        hours=seconds / 3600,
        slots=seconds * rate / config.data.crop,
        codebooks=books,
        uncounted=uncounted,
    )


def sample_rate(config: SoundConfig) -> int:
    """Of the network."""
    return config.model.sample_rate if isinstance(config, CodecConfig) else config.data.sample_rate


def _seconds(path: Path) -> float | None:
    try:
        declared = inspect(path)
    except Fault as fault:
        raise fault.at(path) from fault
    if declared.frames is None or declared.sample_rate is None:
        return None
    return declared.frames / declared.sample_rate

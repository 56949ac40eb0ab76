"""Which settings hold at an optimizer step: the curriculum as a pure function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partimento.config import Config, SoundConfig
from partimento.errors import PartimentoError


@dataclass(frozen=True)
class Settings:
    """What holds from step `start` on. `number` counts the stages from 0."""

    number: int
    start: int
    window: int
    batch: int
    accumulate: int
    lr: float


def stages(config: Config) -> list[Settings]:
    """All stages in order; the first is the configuration as it stands, each later one changes what it names."""
    window = config.data.crop if isinstance(config, SoundConfig) else config.data.window
    found = [Settings(0, 0, window, config.optim.batch, config.optim.accumulate, 1.0)]
    for stage in config.train.stages:
        last = found[-1]
        found.append(
            Settings(
                number=last.number + 1,
                start=stage.start,
                window=stage.window or last.window,
                batch=stage.batch or last.batch,
                accumulate=stage.accumulate or last.accumulate,
                lr=stage.lr or last.lr,
            )
        )
    return found


def settings_at(config: Config, step: int) -> Settings:
    """Those that hold at the 0-based optimizer step."""
    return [stage for stage in stages(config) if stage.start <= step][-1]


def check_shares(stages: Sequence[Settings], world: int) -> None:
    """Raises TRAIN056 where the items of a stage cannot be dealt evenly to `world` devices."""
    for stage in stages:
        if stage.batch % world:
            raise PartimentoError(
                "TRAIN056",
                f"a batch of {stage.batch} cannot be shared equally by {world} devices",
                where=f"the stage from step {stage.start} on",
                why="optim.batch counts the items of one micro-batch over all devices",
                next=f"set optim.batch to a multiple of {world}, e.g. {-(-stage.batch // world) * world}",
            )

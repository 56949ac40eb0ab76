"""Which settings hold at an optimizer step: the curriculum as a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass

from partimento.config import CodecConfig, Config


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
    window = config.data.crop if isinstance(config, CodecConfig) else config.data.window
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

"""One task a family."""

from __future__ import annotations

import torch

from partimento.config import CodecConfig, Config, DiaConfig, RvqConfig
from partimento.training.task import Task


def make_task(config: Config, device: torch.device, rank: int = 0, world: int = 1) -> Task:
    """The task of the configuration's family; raises what its room raises (PACK..., AUDIO..., CODEC...)."""
    match config:
        case RvqConfig() | DiaConfig():
            from partimento.training.tasks.codes import CodesTask

            return CodesTask(config, device, rank, world)
        case CodecConfig():
            from partimento.training.tasks.sound import SoundTask

            return SoundTask(config, device, rank, world)

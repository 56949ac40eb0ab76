"""One task a family."""

from __future__ import annotations

import torch

from partimento.config import CodecConfig, Config, DiaConfig, MotConfig, RestoreConfig, RvqConfig
from partimento.training.task import Task


def make_task(config: Config, device: torch.device, rank: int = 0, world: int = 1) -> Task:
    """The task of the configuration's family; raises what its room raises (PACK..., AUDIO..., CODEC...)."""
    match config:
        case RvqConfig() | DiaConfig() | MotConfig():
            from partimento.training.tasks.codes import CodesTask

            return CodesTask(config, device, rank, world)
        case CodecConfig():
            from partimento.training.tasks.codec import CodecTask

            return CodecTask(config, device, rank, world)
        case RestoreConfig():
            from partimento.training.tasks.restore import RestoreTask

            return RestoreTask(config, device, rank, world)

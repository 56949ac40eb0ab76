"""One task a family."""

from __future__ import annotations

import torch

from partimento.config import CodecConfig, Config, RvqConfig
from partimento.training.task import Task


def make_task(config: Config, device: torch.device) -> Task:
    """The task of the configuration's family; raises what its room raises (PACK..., AUDIO..., CODEC...)."""
    match config:
        case RvqConfig():
            from partimento.training.tasks.codes import CodesTask

            return CodesTask(config, device)
        case CodecConfig():
            from partimento.training.tasks.sound import SoundTask

            return SoundTask(config, device)

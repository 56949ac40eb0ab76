"""A U-Net on patches of samples: the second network of bob80333/pitch_shifter."""

from __future__ import annotations

from torch import nn

from partimento.waveform.blocks import Block
from partimento.waveform.generators.common import GeneratorConfig
from partimento.waveform.generators.convnext import up_to_samples
from partimento.waveform.generators.resample import Down, Up
from partimento.waveform.generators.unet import Parts, UNet

KERNELS, EXPANSION = (7, 23, 41), 4


class PatchUNet(UNet):
    """Channels double from level to level; within a level kernels grow, and nothing is normalized.

    Raises ValueError for a stride that cannot double the channels (odd ones, 1 among them).
    """

    def __init__(self, config: GeneratorConfig) -> None:
        channels = [config.width * 2**level for level in range(len(config.strides) + 1)]
        super().__init__(config, channels, Parts(_unit, Down, Up, _nothing, up_to_samples))


def _unit(channels: int, index: int) -> nn.Module:
    return Block(channels, EXPANSION, KERNELS[index % len(KERNELS)], norm=False, channels_first=True)


def _nothing(channels: int) -> nn.Module:
    return nn.Identity()

"""A U-Net of ConvNeXt blocks: the first network of bob80333/pitch_shifter."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

from torch import nn

from partimento.waveform.blocks import Block
from partimento.waveform.generators.common import GeneratorConfig, up
from partimento.waveform.generators.resample import Down, Up
from partimento.waveform.generators.unet import Parts, UNet

KERNEL, EXPANSION = 41, 4


class ConvNextUNet(UNet):
    """Each level has as many times the channels as it has fewer places, so that nothing need be lost on the way."""

    def __init__(self, config: GeneratorConfig) -> None:
        channels = list(accumulate(config.strides, mul, initial=config.width))
        super().__init__(config, channels, Parts(_unit, Down, Up, _nothing, up_to_samples))


def up_to_samples(channels: int, factor: int) -> nn.Module:
    return up(channels, 1, factor)


def _unit(channels: int, index: int) -> nn.Module:
    return Block(channels, EXPANSION, KERNEL, channels_first=True)


def _nothing(channels: int) -> nn.Module:
    return nn.Identity()

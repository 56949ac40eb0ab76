"""A U-Net of DAC's residual units with Snake (Kumar et al., 2023): the best network of bob80333/pitch_shifter."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from partimento.waveform.generators.common import GeneratorConfig, Snake, Span, down, needed, wide
from partimento.waveform.generators.unet import Parts, UNet


class DacUNet(UNet):
    """Channels double from level to level. Up, each place is repeated: where strides and kernels of a transposed
    convolution overlap unevenly, its outputs have a period, which is heard as a line in the middle of the spectrum."""

    def __init__(self, config: GeneratorConfig) -> None:
        channels = [config.width * 2**level for level in range(len(config.strides) + 1)]
        super().__init__(config, channels, Parts(unit, _down, _up, Snake, _head))


class Unit(nn.Module):
    """DAC's residual unit: Snake, 7 places `dilation` apart, Snake, each place; [B, C, T]."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Snake(channels), wide(channels, 7, dilation), Snake(channels), nn.Conv1d(channels, channels, 1)
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        return x_BCT + self.layers(x_BCT)

    def needed(self, span: Span) -> Span:
        return needed(self.layers, span)


class Repeat(nn.Module):
    """Each place `factor` times: [B, C, T] -> [B, C, T * factor]."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x_BCT: Tensor) -> Tensor:
        return F.interpolate(x_BCT, scale_factor=float(self.factor))

    def needed(self, span: Span) -> Span:
        return span[0] // self.factor, span[1] // self.factor


def unit(channels: int, index: int) -> nn.Module:
    return Unit(channels, 3**index)


def _down(inputs: int, outputs: int, factor: int) -> nn.Module:
    return nn.Sequential(Snake(inputs), down(inputs, outputs, factor))


def _up(inputs: int, outputs: int, factor: int) -> nn.Module:
    # A layer on each place alone is the same before and after repeating, and costs less before.
    return nn.Sequential(nn.Conv1d(inputs, outputs, 1), Repeat(factor))


def _head(channels: int, factor: int) -> nn.Module:
    return nn.Sequential(Snake(channels), Repeat(factor), nn.Conv1d(channels, 1, 7, padding=3))

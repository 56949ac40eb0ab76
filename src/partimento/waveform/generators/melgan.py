"""A U-Net of MelGAN's residual stacks (Kumar et al., 2019), as in bob80333/pitch_shifter."""

from __future__ import annotations

from itertools import accumulate
from operator import mul

from torch import Tensor, nn

from partimento.waveform.generators.common import GeneratorConfig, Span, down, needed, up, wide
from partimento.waveform.generators.convnext import up_to_samples
from partimento.waveform.generators.unet import Parts, UNet

SLOPE = 0.2


class MelganUNet(UNet):
    """Each level has as many times the channels as it has fewer places. No weight norm: with it Muon would be given
    directions and lengths apart."""

    def __init__(self, config: GeneratorConfig) -> None:
        channels = list(accumulate(config.strides, mul, initial=config.width))
        super().__init__(config, channels, Parts(_unit, _down, _up, _leak, _head))


class Stack(nn.Module):
    """3 places `dilation` apart, each place, and a layer around both; [B, C, T]."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(SLOPE), wide(channels, 3, dilation), nn.LeakyReLU(SLOPE), nn.Conv1d(channels, channels, 1)
        )
        self.around = nn.Conv1d(channels, channels, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        return self.around(x_BCT) + self.layers(x_BCT)

    def needed(self, span: Span) -> Span:
        return needed(self.layers, span)


def _unit(channels: int, index: int) -> nn.Module:
    return Stack(channels, 3**index)


def _down(inputs: int, outputs: int, factor: int) -> nn.Module:
    return nn.Sequential(nn.LeakyReLU(SLOPE), down(inputs, outputs, factor))


def _up(inputs: int, outputs: int, factor: int) -> nn.Module:
    return nn.Sequential(nn.LeakyReLU(SLOPE), up(inputs, outputs, factor))


def _leak(channels: int) -> nn.Module:
    return nn.LeakyReLU(SLOPE)


def _head(channels: int, factor: int) -> nn.Module:
    return nn.Sequential(nn.LeakyReLU(SLOPE), up_to_samples(channels, factor))

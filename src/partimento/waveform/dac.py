"""DAC's encoder and decoder (Kumar et al., 2023; descript-audio-codec dac/model/dac.py) between samples and frames.

    wave [B, 1, T * hop] -> conv 7 -> (3 residual units, Snake, strided conv) a level -> Snake -> conv 3 -> [B, D, T]
    [B, D, T] -> conv 7 -> (Snake, transposed conv, 3 residual units) a level -> Snake -> conv 7 -> tanh -> wave

Two things differ. There is no weight norm, which costs time and which optimizers that see matrices do not need; and
transposed convolutions of odd strides get one more sample of output, so that every frame gives exactly hop samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from partimento.waveform.blocks import full_precision, snake

LEVELS = 4
LONGEST_STRIDE = 8
DILATIONS = (1, 3, 9)


def strides_of(hop: int) -> tuple[int, ...]:
    """Four strides from 2 to 8 with this product, the short ones first: 512 is (2, 4, 8, 8) and 320 (2, 4, 5, 8).

    These are DAC's own; of all that are possible they spend the most layers at a high rate. ValueError if none are.
    """
    choices = itertools.combinations_with_replacement(range(2, LONGEST_STRIDE + 1), LEVELS)
    found = next((strides for strides in choices if math.prod(strides) == hop), None)
    if found is None:
        raise ValueError(f"a hop of {hop} is not the product of {LEVELS} strides from 2 to {LONGEST_STRIDE}")
    return found


class Snake(nn.Module):
    """`snake` of [B, C, N], in float32 at least whatever autocast does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha_C = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCN: Tensor) -> Tensor:
        return snake(x_BCN, self.alpha_C[:, None])


class Unit(nn.Module):
    """Residual unit over 6 dilation + 1 samples."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first_snake = Snake(channels)
        self.wide = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.second_snake = Snake(channels)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x_BCN: Tensor) -> Tensor:
        return x_BCN + self.mix(self.second_snake(self.wide(self.first_snake(x_BCN))))


class Down(nn.Module):
    """One level of the encoder: twice the channels, 1/stride of the samples."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.units = nn.Sequential(*(Unit(channels, dilation) for dilation in DILATIONS))
        self.snake = Snake(channels)
        self.stride = nn.Conv1d(channels, 2 * channels, 2 * stride, stride, padding=math.ceil(stride / 2))
        nn.init.normal_(self.stride.weight, std=(channels * 2 * stride) ** -0.5)

    def forward(self, x_BCN: Tensor) -> Tensor:
        return self.stride(self.snake(self.units(x_BCN)))


class Up(nn.Module):
    """One level of the decoder: half the channels, `stride` times the samples."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.snake = Snake(channels)
        self.stride = nn.ConvTranspose1d(
            channels, channels // 2, 2 * stride, stride, padding=math.ceil(stride / 2), output_padding=stride % 2
        )
        nn.init.normal_(self.stride.weight, std=(channels * 2) ** -0.5)  # two taps meet in a sample
        self.units = nn.Sequential(*(Unit(channels // 2, dilation) for dilation in DILATIONS))

    def forward(self, x_BCN: Tensor) -> Tensor:
        return self.units(self.stride(self.snake(x_BCN)))


class DacEncoder(nn.Module):
    """[B, 1, T * hop] -> [B, outputs, T]; `width` channels at full rate, twice as many after each stride."""

    def __init__(self, strides: Sequence[int], width: int, outputs: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.enter = nn.Conv1d(1, width, 7, padding=3)
        self.levels = nn.Sequential(*(Down(width << level, stride) for level, stride in enumerate(strides)))
        self.snake = Snake(width << len(self.strides))
        self.leave = nn.Conv1d(width << len(self.strides), outputs, 3, padding=1)

    @property
    def reach(self) -> int:
        """Frames on each side of which a sample can influence a frame's latent."""
        first, last = 0, 0
        for kernel, stride, padding in _convolutions(self.strides):
            first, last = first * stride - padding, last * stride - padding + kernel - 1
        hop = math.prod(self.strides)
        return max(-(first // hop), last // hop)

    def forward(self, wave_B1N: Tensor) -> Tensor:
        x_BCT = self.snake(self.levels(self.enter(wave_B1N)))
        with full_precision(x_BCT):
            return self.leave(x_BCT)


class DacDecoder(nn.Module):
    """[B, inputs, T] -> [B, 1, T * hop]; `width` channels at frame rate, half as many after each stride."""

    def __init__(self, strides: Sequence[int], width: int, inputs: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.enter = nn.Conv1d(inputs, width, 7, padding=3)
        self.levels = nn.Sequential(*(Up(width >> level, stride) for level, stride in enumerate(strides)))
        self.snake = Snake(width >> len(self.strides))
        self.leave = nn.Conv1d(width >> len(self.strides), 1, 7, padding=3)

    @property
    def reach(self) -> int:
        """Frames on each side whose latents can influence the samples of a frame."""
        first, last = -3, math.prod(self.strides) - 1 + 3
        units = 3 * sum(DILATIONS)
        for stride in reversed(self.strides):
            padding = math.ceil(stride / 2)
            first, last = first - units + padding, last + units + padding
            first, last = -(-(first - 2 * stride + 1) // stride), last // stride
        return max(3 - first, last + 3)

    def forward(self, x_BDT: Tensor) -> Tensor:
        x_BCN = self.snake(self.levels(self.enter(x_BDT)))
        with full_precision(x_BCN):
            return torch.tanh(self.leave(x_BCN))


def _convolutions(strides: Sequence[int]) -> list[tuple[int, int, int]]:
    """(kernel, stride, padding) of the encoder's convolutions, dilation counted into the kernel, from the last on."""
    level = [(6 * dilation + 1, 1, 3 * dilation) for dilation in DILATIONS]
    found = [(3, 1, 1)]
    for stride in reversed(strides):
        found += [(2 * stride, stride, math.ceil(stride / 2)), *level]
    return [*found, (7, 1, 3)]

"""The U-Net that four of the generators are: levels of units on samples, ever fewer and wider, and back.

    wave -> stem -> [units, down] ... -> units -> ... [up, units, join with what came into the level] -> head -> wave

The order is that of bob80333/pitch_shifter: what a level was given goes around it, and is joined behind its last unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from partimento.waveform.blocks import full_precision
from partimento.waveform.generators.common import (
    Generator,
    GeneratorConfig,
    Span,
    context_of,
    down,
    needed,
)


@dataclass(frozen=True)
class Parts:
    """How a U-Net is built: units (channels, index within the level), resampling (inputs, outputs, factor), what is
    done before a join (channels), and the last layer (channels, factor), which makes samples."""

    unit: Callable[[int, int], nn.Module]
    down: Callable[[int, int, int], nn.Module]
    up: Callable[[int, int, int], nn.Module]
    before: Callable[[int], nn.Module]
    head: Callable[[int, int], nn.Module]


class UNet(Generator):
    """A U-Net with `channels` at its levels, one more than there are strides."""

    def __init__(self, config: GeneratorConfig, channels: Sequence[int], parts: Parts) -> None:
        super().__init__(config)
        levels = list(zip(channels[:-1], channels[1:], config.strides, strict=True))
        self.stem = down(1, channels[0], config.stem)
        falls = [
            Fall(*_units(parts, narrow, config.blocks), parts.down(narrow, broad, factor))
            for narrow, broad, factor in levels
        ]
        rises = [
            Rise(parts.up(broad, narrow, factor), _units(parts, narrow, config.blocks), parts.before(narrow), narrow)
            for narrow, broad, factor in reversed(levels)
        ]
        # One list, in the order of the computation: `blocks` are what training compiles or computes twice.
        self.blocks = nn.ModuleList([*falls, Fall(*_units(parts, channels[-1], config.blocks)), *rises])
        self.head = parts.head(channels[0], config.stem)
        self._begin_as_identity(self.head[-1] if isinstance(self.head, nn.Sequential) else self.head)
        self.multiple = config.stem * math.prod(config.strides)
        self.context = context_of(self, self.multiple)

    def make(self, wave_BN: Tensor) -> Tensor:
        depth = len(self.config.strides)
        x_BCT = self.stem(wave_BN[:, None])
        around = []
        for level in range(depth):
            around.append(x_BCT)
            x_BCT = self.blocks[level](x_BCT)
        x_BCT = self.blocks[depth](x_BCT)
        for level in range(depth + 1, 2 * depth + 1):
            x_BCT = self.blocks[level](x_BCT, around.pop())
        with full_precision(wave_BN):
            return self.head(x_BCT.to(wave_BN.dtype))[:, 0]

    def needed(self, span: Span) -> Span:
        depth = len(self.config.strides)
        span = needed(self.head, span)
        around = []
        for level in reversed(range(depth + 1, 2 * depth + 1)):
            around.append(span)
            span = needed(self.blocks[level], span)
        span = needed(self.blocks[depth], span)
        for level in reversed(range(depth)):
            first, last = needed(self.blocks[level], span)
            straight_first, straight_last = around.pop()
            span = torch.minimum(first, straight_first), torch.maximum(last, straight_last)
        return needed(self.stem, span)


class Fall(nn.Module):
    """A level on the way down, or the bottom. A class of its own, because graphs are counted by what they are made of:
    nn.Sequential would share its count, of 8 at most, with everything else that is compiled."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.straight = nn.Sequential(*layers)

    def forward(self, x_BCT: Tensor) -> Tensor:
        return self.straight(x_BCT)

    def needed(self, span: Span) -> Span:
        return needed(self.straight, span)


class Rise(nn.Module):
    """A level on the way up: [B, broad, T] and what goes around it, [B, narrow, T * factor], to the latter's shape."""

    def __init__(self, up: nn.Module, units: Sequence[nn.Module], before: nn.Module, channels: int) -> None:
        super().__init__()
        self.straight = nn.Sequential(up, *units, before)
        self.join = nn.Conv1d(2 * channels, channels, 1)

    def forward(self, x_BCT: Tensor, around_BCT: Tensor) -> Tensor:
        x_BCT = self.straight(x_BCT)
        return self.join(torch.cat([x_BCT, around_BCT.to(x_BCT.dtype)], 1))

    def needed(self, span: Span) -> Span:
        return needed(self.straight, span)


def _units(parts: Parts, channels: int, count: int) -> list[nn.Module]:
    return [parts.unit(channels, index) for index in range(count)]

"""Resampling with a way around: beside the strided convolution the samples themselves, rearranged (pixel shuffle)."""

from __future__ import annotations

from torch import Tensor, nn

from partimento.waveform.generators.common import Span, down, needed, shuffle, unshuffle, up


class Down(nn.Module):
    """[B, C, T * f] -> [B, C * f / g, T]: strided convolution, plus f samples in a row as channels, means of g of them.

    `g` follows from the channels. Raises ValueError where they are no such fraction.
    """

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor, self.group = factor, _group(inputs, outputs, factor)
        self.convolution = down(inputs, outputs, factor)

    def forward(self, x_BCT: Tensor) -> Tensor:
        around = unshuffle(x_BCT, self.factor)
        return self.convolution(x_BCT) + around.unflatten(1, (-1, self.group)).mean(2)

    def needed(self, span: Span) -> Span:
        return needed(self.convolution, span)


class Up(nn.Module):
    """The mirror of `Down`: transposed convolution, plus channels as samples in a row, each g times."""

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor, self.group = factor, _group(outputs, inputs, factor)
        self.convolution = up(inputs, outputs, factor)

    def forward(self, x_BCT: Tensor) -> Tensor:
        return self.convolution(x_BCT) + shuffle(x_BCT, self.factor).repeat_interleave(self.group, 1)

    def needed(self, span: Span) -> Span:
        return needed(self.convolution, span)


def _group(narrow: int, broad: int, factor: int) -> int:
    group, rest = divmod(narrow * factor, broad)
    if rest or narrow % group:
        raise ValueError(f"{narrow} channels of {factor} samples each are no means of equal groups for {broad}")
    return group

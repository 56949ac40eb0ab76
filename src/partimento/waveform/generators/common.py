"""What the generators share: their configuration, exact lengths and reach, Snake and resampling layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.waveform.blocks import Block, snake

Span: TypeAlias = tuple[Tensor, Tensor]
"""First and last index [P] that each of P places needs; int64."""

# What each network is made of where nothing else is asked for. Width, strides and blocks of the U-Nets are those of
# bob80333/pitch_shifter, at whose sizes they are known to train.
DESIGNS: dict[str, dict[str, Any]] = {
    "spectral": {"width": 256, "blocks": 5, "hop": 256},
    "dac": {"width": 32, "strides": (2, 4, 8, 8), "blocks": 3, "stem": 2},
    "convnext": {"width": 8, "strides": (8, 4, 2), "blocks": 4, "stem": 8},
    "patch": {"width": 32, "strides": (2, 2, 4, 8), "blocks": 3, "stem": 4},
    "melgan": {"width": 8, "strides": (8, 4, 2), "blocks": 4, "stem": 8},
}


@dataclass(frozen=True)
class GeneratorConfig:
    """A network from wave to wave. `of` fills in what a network was designed with.

    width: of the trunk (spectral), or channels of the first level (U-Nets). blocks: in all, or a level.
    hop: of the transform (spectral; 0 else). strides, stem: of the U-Nets (empty and 1 else); the stem is the stride of
    the first layer. residual: the network makes what is added to its input.
    """

    net: str
    width: int
    blocks: int
    strides: tuple[int, ...] = ()
    stem: int = 1
    hop: int = 0
    residual: bool = True

    def __post_init__(self) -> None:
        if self.net not in DESIGNS:
            raise ValueError(f"there is no network {self.net!r}, but {', '.join(DESIGNS)}")
        wanted = DESIGNS[self.net]
        for name in ("strides", "stem", "hop"):
            if name not in wanted and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{self.net} has no {name}, only {', '.join(wanted)}")
        if min(self.width, self.blocks, self.stem, *self.strides) < 1 or ("hop" in wanted and self.hop < 1):
            raise ValueError("width, blocks, strides, stem and hop are at least 1")

    @classmethod
    def of(cls, net: str, **given: Any) -> GeneratorConfig:
        """The design of `net`, with what is given and not None in place of its own.

        Raises ValueError (an unknown network, or something that the network does not have).
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        if "strides" in chosen:
            chosen["strides"] = tuple(chosen["strides"])
        return cls(net, **{**DESIGNS.get(net, {"width": 1, "blocks": 1}), **chosen})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "strides": list(self.strides)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> GeneratorConfig:
        return cls(**{**tree, "strides": tuple(tree["strides"])})


class Generator(nn.Module):
    """wave [B, N] -> wave [B, N], for any N of at least 1.

    A pure function of its input, the same whatever else is in the batch. Sample n depends on samples n - context to
    n + context; from chunks that begin at a multiple of `multiple` it makes what it makes of the whole. Outside of the
    wave it sees silence.
    """

    multiple: int
    context: int

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, damaged_BN: Tensor) -> Tensor:
        N = damaged_BN.shape[1]
        made_BN = self.make(F.pad(damaged_BN, (0, -N % self.multiple)))[:, :N]
        return damaged_BN + made_BN if self.config.residual else made_BN

    def make(self, wave_BN: Tensor) -> Tensor:
        """What is added to the wave, or the new wave; N is a multiple of `multiple`."""
        raise NotImplementedError

    def _begin_as_identity(self, last: nn.Module) -> None:
        """A residual network starts by adding nothing: the last layer's weights are 0."""
        if self.config.residual:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)


class Snake(nn.Module):
    """`snake` of [B, C, T], in the precision of what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x_BCT: Tensor) -> Tensor:
        return snake(x_BCT, self.alpha).to(x_BCT.dtype)


def down(inputs: int, outputs: int, factor: int) -> nn.Conv1d:
    """Strided convolution [B, inputs, T * factor] -> [B, outputs, T], each place seeing about two strides."""
    kernel = 2 * factor - factor % 2
    return nn.Conv1d(inputs, outputs, kernel, stride=factor, padding=(kernel - factor) // 2)


def up(inputs: int, outputs: int, factor: int) -> nn.ConvTranspose1d:
    """The mirror of `down`: [B, inputs, T] -> [B, outputs, T * factor]."""
    kernel = 2 * factor - factor % 2
    return nn.ConvTranspose1d(inputs, outputs, kernel, stride=factor, padding=(kernel - factor) // 2)


def wide(channels: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    """Convolution over `kernel` (odd) places, `dilation` apart, that keeps channels and length."""
    return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=kernel // 2 * dilation)


def unshuffle(x_BCT: Tensor, factor: int) -> Tensor:
    """[B, C, T * f] -> [B, C * f, T]: f samples in a row become f channels in a row."""
    B, C, N = x_BCT.shape
    return x_BCT.reshape(B, C, N // factor, factor).transpose(2, 3).reshape(B, C * factor, N // factor)


def shuffle(x_BCT: Tensor, factor: int) -> Tensor:
    """The inverse of `unshuffle`: [B, C * f, T] -> [B, C, T * f]."""
    B, C, T = x_BCT.shape
    return x_BCT.reshape(B, C // factor, factor, T).transpose(2, 3).reshape(B, C // factor, T * factor)


def needed(module: nn.Module, span: Span) -> Span:
    """What places at a module's output need of its input. Modules that mix places have a method `needed`, or are
    convolutions or sequences; all others work on each place alone."""
    first, last = span
    if isinstance(module, nn.Sequential):
        for layer in reversed(module):
            span = needed(layer, span)
        return span
    if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
        (kernel,), (stride,), (dilation,) = module.kernel_size, module.stride, module.dilation
        padding = module.padding[0]
        assert isinstance(padding, int)
        if isinstance(module, nn.Conv1d):
            return first * stride - padding, last * stride - padding + dilation * (kernel - 1)
        # Input i reaches the outputs i * stride - padding + (0 ... kernel - 1).
        return -((kernel - 1 - first - padding) // stride), (last + padding) // stride
    if isinstance(module, Block):
        return needed(module.mix_frames, span)
    own = getattr(module, "needed", None)
    return own(span) if own else span


def context_of(module: nn.Module, multiple: int) -> int:
    """The furthest sample on either side that `module.needed` tells, over all places in a multiple."""
    places = torch.arange(multiple, device="cpu")  # networks are also built on the meta device
    first, last = needed(module, (places, places))
    return int(torch.maximum((places - first).max(), (last - places).max()))

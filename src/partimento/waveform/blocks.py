"""What codec and generators share: ConvNeXt blocks (Liu et al., 2022), their trunk over frames as Vocos (Siuzdak, 2023)
has it, and Snake."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.models.linear import Linear

KERNEL = 7


class Trunk(nn.Module):
    """Linear in, ConvNeXt blocks over frames, layer norm, linear out: [B, T, inputs] -> [B, T, outputs]."""

    def __init__(self, inputs: int, width: int, outputs: int, layers: int, expansion: int) -> None:
        super().__init__()
        self.enter = Linear(inputs, width)
        self.blocks = nn.ModuleList(Block(width, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.leave = Linear(width, outputs)

    @property
    def reach(self) -> int:
        """Frames on each side that can influence a frame."""
        return KERNEL // 2 * len(self.blocks)

    def forward(self, x_BTD: Tensor) -> Tensor:
        dtype = x_BTD.dtype
        x_BTD = self.enter(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        with full_precision(x_BTD):
            return self.leave(self.norm(x_BTD.to(dtype)))


class Block(nn.Module):
    """ConvNeXt block: each channel over `kernel` frames, then all channels of each frame; a residual, learned in scale.

    [B, T, D] or, with `channels_first`, [B, D, T]. The published scale of 1e-6 hardly learns in runs of some thousand
    steps, so it begins with 0.2. `partimento.models.linear` is more than twice as fast as torch's linear layer here.
    """

    def __init__(
        self, width: int, expansion: int, kernel: int = KERNEL, *, norm: bool = True, channels_first: bool = False
    ) -> None:
        super().__init__()
        self.channels_first = channels_first
        self.mix_frames = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up = Linear(width, expansion * width)
        self.down = Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        y_BTD = self._over_frames(x if self.channels_first else x.transpose(1, 2))
        y_BTD = self.scale * self.down(F.gelu(self.up(self.norm(y_BTD))))
        return x + (y_BTD.transpose(1, 2) if self.channels_first else y_BTD)

    def _over_frames(self, x_BDT: Tensor) -> Tensor:
        if x_BDT.dtype != torch.float64:
            return self.mix_frames(x_BDT).transpose(1, 2)
        # PyTorch runs a depthwise convolution in float64 as one small convolution a channel: hundreds of calls.
        T, weight_KD = x_BDT.shape[2], self.mix_frames.weight[:, 0].T
        beside = len(weight_KD) // 2
        padded_BTD = F.pad(x_BDT.transpose(1, 2), (0, 0, beside, beside))
        bias_D = self.mix_frames.bias
        assert bias_D is not None
        y_BTD = bias_D.expand(len(x_BDT), T, -1)
        for tap, weight_D in enumerate(weight_KD):
            y_BTD = torch.addcmul(y_BTD, padded_BTD[:, tap : tap + T], weight_D)
        return y_BTD


def snake(x_BCN: Tensor, alpha: Tensor) -> Tensor:
    """x + sin^2(a x) / a, with an a for each channel (Ziyin et al., 2020, as DAC has it); in float32 at least: in half
    precision a x has too few digits for the sine."""
    with full_precision(x_BCN):
        x_BCN = x_BCN.to(torch.promote_types(x_BCN.dtype, torch.float32))
        return x_BCN + torch.sin(alpha * x_BCN).square() / (alpha + 1e-9)


def full_precision(like: Tensor) -> torch.autocast:
    """Transforms, quantizers, Snake and last layers never run in half precision: a wave in bf16 has 55 dB at best."""
    return torch.autocast(like.device.type, enabled=False)

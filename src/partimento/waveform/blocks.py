"""The trunk of networks between frames: ConvNeXt blocks (Liu et al., 2022) over time, as Vocos (Siuzdak, 2023) has."""

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
    """ConvNeXt block: each channel over 7 frames, then all channels of each frame; residual with a learned scale."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.mix_frames = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = Linear(width, expansion * width)
        self.down = Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD = self._over_frames(x_BTD)
        return x_BTD + self.scale * self.down(F.gelu(self.up(self.norm(y_BTD))))

    def _over_frames(self, x_BTD: Tensor) -> Tensor:
        if x_BTD.dtype != torch.float64:
            return self.mix_frames(x_BTD.transpose(1, 2)).transpose(1, 2)
        # PyTorch runs a depthwise convolution in float64 as one small convolution a channel: hundreds of calls.
        T, weight_KD = x_BTD.shape[1], self.mix_frames.weight[:, 0].T
        padded = F.pad(x_BTD, (0, 0, KERNEL // 2, KERNEL // 2))
        bias_D = self.mix_frames.bias
        assert bias_D is not None
        y_BTD = bias_D.expand_as(x_BTD)
        for tap in range(KERNEL):
            y_BTD = torch.addcmul(y_BTD, padded[:, tap : tap + T], weight_KD[tap])
        return y_BTD


def full_precision(like: Tensor) -> torch.autocast:
    """Transforms, quantizers and last layers are never run in half precision: a waveform in bf16 has 55 dB at best."""
    return torch.autocast(like.device.type, enabled=False)

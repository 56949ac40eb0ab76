"""DAC (Descript Audio Codec) at 16, 24 and 44.1 kHz, over transformers' DacModel: convolutions only.

Its memory is finite, so long audio goes through it in windows whose context is computed from the model's layers.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.codecs.stages import full_precision
from partimento.tokens.spec import CodecSpec


def spec_of(model: Any, weights: str) -> CodecSpec:
    """What the codes of a loaded DacModel are; the name goes by family and rate. `weights` is their sha256.

    Raises ValueError for a geometry without exact frames (a stride of 1).
    """
    config = model.config
    strides = list(config.downsampling_ratios)
    if not strides or min(strides) < 2:
        raise ValueError(f"strides of {strides}: frames are exact only for strides of 2 and more")
    rate = int(config.sampling_rate)
    return CodecSpec(
        codec=f"dac-{rate // 1000}k",
        weights=weights,
        sample_rate=rate,
        frame_rate=Fraction(rate, math.prod(strides)),
        cardinalities=(int(config.codebook_size),) * int(config.n_codebooks),
    )


class DacCodec:
    """A `Codec` (mono) in float32. The model is changed in place: see `_lengthen`."""

    def __init__(self, model: Any, spec: CodecSpec, device: torch.device | str = "cpu"):
        self.spec = spec
        self.device = torch.device(device)
        self.context_frames = max(encoder_context(model), decoder_context(model))
        self._hop = int(spec.hop)
        self._model = model.float().eval().requires_grad_(False).to(self.device)
        _lengthen(self._model)

    @torch.no_grad()
    def encode(self, wave_BCN: Tensor) -> Tensor:
        """codes [B, ceil(N / hop), K] int64 of mono waves [B, 1, N], padded with zeros to whole frames."""
        padded = F.pad(wave_BCN, (0, -wave_BCN.shape[-1] % self._hop)).to(self.device, torch.float32)
        with full_precision():
            codes_BKT: Tensor = self._model.encode(padded).audio_codes
        return codes_BKT.transpose(1, 2)

    @torch.no_grad()
    def decode(self, codes_BTK: Tensor) -> Tensor:
        """mono waves [B, 1, T * hop] float32; the first k books alone are a coarser rate."""
        with full_precision():
            wave_BN: Tensor = self._model.decode(audio_codes=codes_BTK.transpose(1, 2).to(self.device)).audio_values
        return wave_BN[:, None]


def encoder_context(model: Any) -> int:
    """Frames on either side whose samples reach a frame's codes."""
    first, last = 0, 0  # places that frame 0 depends on, from the latent back to the samples
    for layer in reversed(_convolutions(model.encoder)):
        kernel, stride, padding, dilation = _shape(layer)
        first = first * stride - padding
        last = last * stride - padding + dilation * (kernel - 1)
    hop = math.prod(model.config.downsampling_ratios)
    return max(math.ceil(-first / hop), math.ceil((last - hop + 1) / hop), 0)


def decoder_context(model: Any) -> int:
    """Frames on either side whose codes reach a frame's samples."""
    first, last = 0, math.prod(model.config.downsampling_ratios) - 1  # from frame 0's samples back to the latent
    for layer in reversed(_convolutions(model.decoder)):
        kernel, stride, padding, dilation = _shape(layer)
        reach = dilation * (kernel - 1)
        if isinstance(layer, nn.ConvTranspose1d):  # output o = stride * i - padding + j takes input i, j in 0..reach
            first, last = math.ceil((first + padding - reach) / stride), (last + padding) // stride
        else:
            first, last = first - padding, last - padding + reach
    return max(-first, last, 0)


def _convolutions(half: Any) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    """In the order of the signal: the library registers the first and last layer around the blocks out of order."""
    order: list[nn.Module] = [half.conv1]
    for block in half.block:
        units = [block.res_unit1, block.res_unit2, block.res_unit3]
        order += [block.conv_t1, *units] if hasattr(block, "conv_t1") else [*units, block.conv1]
    order.append(half.conv2)
    return [m for part in order for m in part.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]


def _shape(layer: nn.Conv1d | nn.ConvTranspose1d) -> tuple[int, int, int, int]:
    return layer.kernel_size[0], layer.stride[0], int(layer.padding[0]), layer.dilation[0]


def _lengthen(model: Any) -> None:
    """Make every upsampling by an odd stride s give s * T samples.

    The library's gives one sample less, so that a decode ends early (8 samples at 16 and 24 kHz) and T frames are not
    T * hop samples. One more of output changes nothing before the recording's end.
    """
    for layer in model.modules():
        if isinstance(layer, nn.ConvTranspose1d):
            layer.output_padding = (layer.stride[0] % 2,)

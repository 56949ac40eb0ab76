"""Our codec's network: an autoencoder at frame rate between MDCT frames, with a residual quantizer in the middle.

    wave [B, N] -> MDCT and its magnitude [B, T, hop] -> ConvNeXt blocks -> latent [B, T, D] -> codes [B, T, K]
    codes -> latent -> ConvNeXt blocks -> gain and shape of each coefficient -> MDCT [B, T, hop] -> wave [B, T * hop]

A network between MDCT frames costs a hundredth of one on samples, reconstructs perfectly where it is given everything,
and counts frames exactly: T = ceil(N / hop). Width-wise linear layers and depthwise convolutions over frames follow
ConvNeXt (Liu et al., 2022) as Vocos (Siuzdak, 2023) uses it; the MDCT as target follows MDCTCodec (Jiang et al., 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.audio.spectra import imdct, mdct, mdst
from partimento.waveform.quantizer import ResidualQuantizer

KERNEL = 7
POWER_FLOOR = 1e-10  # about the power of one rounding to 16 bits
GAIN_RANGE = (-14.0, 6.0)  # natural log of a coefficient's gain: from below the 16-bit floor to full scale


@dataclass(frozen=True)
class AutoencoderConfig:
    """`hop` samples a frame, `width` of both trunks, `expansion` of their blocks, `latent` width that is quantized."""

    hop: int = 512
    width: int = 256
    expansion: int = 3
    encoder_layers: int = 3
    decoder_layers: int = 5
    latent: int = 32
    codebooks: int = 9
    cardinality: int = 1024

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> AutoencoderConfig:
        return cls(**tree)


@dataclass(frozen=True)
class Reconstruction:
    """What a training pass gives: the wave [B, N], the codes [B, T, K] and the quantizer's commitment (0-D)."""

    wave_BN: Tensor
    codes_BTK: Tensor
    commitment: Tensor


class Autoencoder(nn.Module):
    """Encoder, quantizer and decoder. Call `set_statistics` and start the quantizer before use, or load weights."""

    mean_M: Tensor
    scale_M: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        M, D = config.hop, config.width
        self.register_buffer("mean_M", torch.zeros(M))
        self.register_buffer("scale_M", torch.ones(M))
        self.encoder = Trunk(2 * M, D, config.latent, config.encoder_layers, config.expansion)
        self.quantizer = ResidualQuantizer(config.codebooks, config.cardinality, config.latent)
        self.decoder = Trunk(config.latent, D, 2 * M, config.decoder_layers, config.expansion)

    @property
    def context_frames(self) -> int:
        """Frames on each side that can influence a frame of codes, or a frame of the decoded wave."""
        reach = KERNEL // 2
        return 1 + reach * max(self.config.encoder_layers, self.config.decoder_layers)

    def forward(self, wave_BN: Tensor, books_B: Tensor | None = None) -> Reconstruction:
        """Through the codec and back; item b with its first books_B[b] codebooks only (training)."""
        latent_BTD = self.latent(wave_BN)
        with _full_precision(wave_BN):
            quantized = self.quantizer(latent_BTD, books_B)
        wave = self.synthesize(quantized.latent_BTD)[:, : wave_BN.shape[1]]
        return Reconstruction(wave, quantized.codes_BTK, quantized.commitment)

    def encode(self, wave_BN: Tensor) -> Tensor:
        """codes [B, ceil(N / hop), K] int64."""
        return self.quantizer.encode(self.latent(wave_BN))

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """wave [B, T * hop]."""
        return self.synthesize(self.quantizer.decode(codes_BTK))

    def latent(self, wave_BN: Tensor) -> Tensor:
        """latents [B, T, D] before quantization."""
        with _full_precision(wave_BN):
            features_BTF = self._features(wave_BN)
        return self.encoder(features_BTF)

    def synthesize(self, latent_BTD: Tensor) -> Tensor:
        """wave [B, T * hop] of latents."""
        gain, shape = self.decoder(latent_BTD).chunk(2, -1)
        with _full_precision(latent_BTD):
            # Spectra span 100 dB: a network reaches that as a gain in the log domain times a shape of order one.
            log_gain = (self.mean_M + self.scale_M * gain).clamp(*GAIN_RANGE)
            return imdct(log_gain.exp() * shape)

    @torch.no_grad()
    def set_statistics(self, wave_BN: Tensor) -> None:
        """Set each bin's mean and deviation of the log magnitude from these waves, near-silent frames apart."""
        log_FM = _log_magnitude(mdct(wave_BN, self.config.hop), mdst(wave_BN, self.config.hop)).flatten(0, 1)
        heard_FM = log_FM[log_FM.mean(1) > -9.0]
        if len(heard_FM) < 2:
            raise ValueError("there is nothing but silence to take the statistics of")
        self.mean_M.copy_(heard_FM.mean(0))
        self.scale_M.copy_(heard_FM.std(0).clamp(min=0.1))

    def _features(self, wave_BN: Tensor) -> Tensor:
        """[B, T, 2 hop]: log magnitude, and the signed coefficient compressed around its bin's usual magnitude.

        The MDCT alone flickers with the phase of a steady tone; with its sine twin the encoder sees the magnitude.
        """
        real, imaginary = mdct(wave_BN, self.config.hop), mdst(wave_BN, self.config.hop)
        log_magnitude = (_log_magnitude(real, imaginary) - self.mean_M) / self.scale_M
        return torch.cat([log_magnitude, torch.asinh(2 * real / self.mean_M.exp())], -1)


class Trunk(nn.Module):
    """Linear in, ConvNeXt blocks over frames, layer norm, linear out: [B, T, inputs] -> [B, T, outputs]."""

    def __init__(self, inputs: int, width: int, outputs: int, layers: int, expansion: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(Block(width, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, outputs)

    def forward(self, x_BTD: Tensor) -> Tensor:
        dtype = x_BTD.dtype
        x_BTD = self.enter(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        with _full_precision(x_BTD):
            return self.leave(self.norm(x_BTD.to(dtype)))


class Block(nn.Module):
    """ConvNeXt block: each channel over 7 frames, then all channels of each frame; residual with a learned scale."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.mix_frames = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
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


def _full_precision(like: Tensor) -> torch.autocast:
    """Transforms, quantizer and losses are never run in half precision: a waveform in bf16 has 55 dB at best."""
    return torch.autocast(like.device.type, enabled=False)


def _log_magnitude(real: Tensor, imaginary: Tensor) -> Tensor:
    return 0.5 * torch.log(real.square() + imaginary.square() + POWER_FLOOR)

"""Our own codec's network: an encoder to latents at frame rate, a residual quantizer, and a decoder.

    wave [B, N] -> latent [B, T, D] -> codes [B, T, K] -> latent -> wave [B, T * hop]      with T = ceil(N / hop)

    encoder  mdct  MDCT frames and their magnitudes through ConvNeXt blocks     dac  DAC's strided convolutions
    decoder  mdct  ConvNeXt blocks, then gain and shape of MDCT coefficients    dac  DAC's transposed convolutions
             stft  ConvNeXt blocks, then gain and complex shape of STFT bins
             dual  as stft, plus the lowest bins of windows four times as long, which tell partials apart
    lookup   averaged  books of the latent's width, moved by averages           factorised  DAC's, by gradient

A network between frames costs a hundredth of one on samples, and the MDCT reconstructs perfectly where it is given
everything. Width-wise linear layers and depthwise convolutions over frames follow ConvNeXt (Liu et al., 2022) as Vocos
(Siuzdak, 2023) uses it; the MDCT as target follows MDCTCodec (Jiang et al., 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partimento.audio.spectra import mdct, mdst
from partimento.waveform import heads
from partimento.waveform.blocks import Block, Trunk, full_precision
from partimento.waveform.dac import DacDecoder, DacEncoder, strides_of
from partimento.waveform.factorised import FactorisedQuantizer
from partimento.waveform.quantizer import ResidualQuantizer

__all__ = ["TRAINING_ONLY", "Autoencoder", "AutoencoderConfig", "Block", "Reconstruction", "decides_codes"]

LONG = 8  # hops of the long windows of a dual decoder; it makes their lowest hop + 1 bins, a quarter of the band
# Of the quantizer's buffers, what only its training needs.
TRAINING_ONLY = ("quantizer.counts_KV", "quantizer.sums_KVD", "quantizer.started")


@dataclass(frozen=True)
class AutoencoderConfig:
    """`hop` samples a frame, `latent` the width that is quantized, the rest as in the configuration (`[model]`).

    `width`, `expansion` and the layers are those of trunks between frames. DAC's decoder begins with `width` channels
    at frame rate and ends with width / 16 at full rate; its encoder mirrors that. Raises ValueError for a hop or width
    that cannot be.
    """

    hop: int = 512
    width: int = 256
    expansion: int = 3
    encoder_layers: int = 3
    decoder_layers: int = 5
    latent: int = 32
    codebooks: int = 9
    cardinality: int = 1024
    encoder: str = "mdct"
    decoder: str = "mdct"
    lookup: str = "averaged"
    factor: int = 8

    def __post_init__(self) -> None:
        known = {
            "encoder": ("mdct", "dac"),
            "decoder": ("mdct", "stft", "dual", "dac"),
            "lookup": ("averaged", "factorised"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"the {name} is one of {', '.join(values)}, not {getattr(self, name)!r}")
        if "dac" in (self.encoder, self.decoder):
            levels = len(strides_of(self.hop))
            if self.width % (1 << levels):
                raise ValueError(f"the width of a network on samples is a multiple of {1 << levels}, not {self.width}")
        elif self.hop % 2:
            raise ValueError(f"frames of a spectrum have an even hop, not {self.hop}")

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
    mean_F: Tensor
    scale_F: Tensor
    mean_L: Tensor
    scale_L: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.codes_frozen = False
        M, D = config.hop, config.width
        if "mdct" in (config.encoder, config.decoder):
            self.register_buffer("mean_M", torch.zeros(M))
            self.register_buffer("scale_M", torch.ones(M))
        if config.decoder in ("stft", "dual"):
            self.register_buffer("mean_F", torch.zeros(M + 1))
            self.register_buffer("scale_F", torch.ones(M + 1))
        if config.decoder == "dual":
            self.register_buffer("mean_L", torch.zeros(M + 1))
            self.register_buffer("scale_L", torch.ones(M + 1))
        self.encoder: Trunk | DacEncoder
        self.decoder: Trunk | DacDecoder
        if config.encoder == "mdct":
            self.encoder = Trunk(2 * M, D, config.latent, config.encoder_layers, config.expansion)
        else:
            strides = strides_of(M)
            self.encoder = DacEncoder(strides, D >> len(strides), config.latent)
        if config.decoder == "dac":
            self.decoder = DacDecoder(strides_of(M)[::-1], D, config.latent)
        else:
            made = {"mdct": 2 * M, "stft": 3 * (M + 1), "dual": 6 * (M + 1)}[config.decoder]
            self.decoder = Trunk(config.latent, D, made, config.decoder_layers, config.expansion)
        sizes = (config.codebooks, config.cardinality, config.latent)
        self.quantizer: ResidualQuantizer | FactorisedQuantizer = (
            ResidualQuantizer(*sizes) if config.lookup == "averaged" else FactorisedQuantizer(*sizes, config.factor)
        )

    @property
    def context_frames(self) -> int:
        """Frames on each side that can influence a frame of codes, or a frame of the decoded wave."""
        # Windows of two hops reach into the frames on both sides, those of 8 into four.
        beside = {"mdct": 1, "stft": 1, "dual": LONG // 2, "dac": 0}
        return max(self.encoder.reach + beside[self.config.encoder], self.decoder.reach + beside[self.config.decoder])

    def forward(self, wave_BN: Tensor, books_B: Tensor | None = None) -> Reconstruction:
        """Through the codec and back; item b with its first books_B[b] codebooks only (training)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.codes_frozen):
            latent_BTD = self.latent(wave_BN)
            with full_precision(wave_BN):
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
        if self.config.encoder == "dac":
            padded_BN = F.pad(wave_BN, (0, -wave_BN.shape[1] % self.config.hop))
            return self.encoder(padded_BN[:, None]).transpose(1, 2)
        with full_precision(wave_BN):
            features_BTF = self._features(wave_BN)
        return self.encoder(features_BTF)

    def synthesize(self, latent_BTD: Tensor) -> Tensor:
        """wave [B, T * hop] of latents."""
        if self.config.decoder == "dac":
            return self.decoder(latent_BTD.transpose(1, 2))[:, 0]
        made_BTF = self.decoder(latent_BTD)
        with full_precision(latent_BTD):
            if self.config.decoder == "mdct":
                return heads.mdct_wave(made_BTF, self.mean_M, self.scale_M)
            if self.config.decoder == "stft":
                return heads.stft_wave(made_BTF, self.mean_F, self.scale_F, self.config.hop)
            short_BTF, long_BTF = made_BTF.chunk(2, -1)
            long_BN = heads.stft_wave(long_BTF, self.mean_L, self.scale_L, self.config.hop, LONG)
            return long_BN + heads.stft_wave(short_BTF, self.mean_F, self.scale_F, self.config.hop)

    @torch.no_grad()
    def set_statistics(self, wave_BN: Tensor) -> None:
        """Set each bin's mean and deviation of the log magnitude from these waves, near-silent frames apart.

        Those that came with loaded weights stay: codes and decoders mean nothing with others. Raises ValueError for
        silence.
        """
        hop = self.config.hop
        if "mdct" in (self.config.encoder, self.config.decoder) and not self.mean_M.any():
            log_BTM = heads.log_magnitude(mdct(wave_BN, hop), mdst(wave_BN, hop))
            for buffer, value in zip((self.mean_M, self.scale_M), heads.statistics(log_BTM), strict=True):
                buffer.copy_(value)
        if self.config.decoder in ("stft", "dual") and not self.mean_F.any():
            self._set_bins(wave_BN, 2, self.mean_F, self.scale_F)
        if self.config.decoder == "dual" and not self.mean_L.any():
            self._set_bins(wave_BN, LONG, self.mean_L, self.scale_L)

    def _set_bins(self, wave_BN: Tensor, span: int, mean_F: Tensor, scale_F: Tensor) -> None:
        spectrum = heads.frames(wave_BN, self.config.hop, span)[..., : len(mean_F)]
        mean, scale = heads.statistics(heads.log_magnitude(spectrum.real, spectrum.imag))
        mean_F.copy_(mean)
        scale_F.copy_(scale)

    def codes_state(self) -> dict[str, Tensor]:
        """The tensors of the state that decide the codes: encoder, its statistics, books."""
        return {name: tensor for name, tensor in self.state_dict().items() if decides_codes(name, self.config)}

    def freeze_codes(self) -> None:
        """From now on train the decoder alone: codes of the weights that are loaded stay what they are."""
        self.codes_frozen = True
        self.encoder.requires_grad_(False)
        self.quantizer.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Autoencoder:
        super().train(mode)
        if self.codes_frozen:  # in eval mode the quantizer notes nothing that could move its books
            self.encoder.eval()
            self.quantizer.eval()
        return self

    def _features(self, wave_BN: Tensor) -> Tensor:
        """[B, T, 2 hop]: log magnitude, and the signed coefficient compressed around its bin's usual magnitude.

        The MDCT alone flickers with the phase of a steady tone; with its sine twin the encoder sees the magnitude.
        """
        real, imaginary = mdct(wave_BN, self.config.hop), mdst(wave_BN, self.config.hop)
        log_magnitude = (heads.log_magnitude(real, imaginary) - self.mean_M) / self.scale_M
        return torch.cat([log_magnitude, torch.asinh(2 * real / self.mean_M.exp())], -1)


def decides_codes(name: str, config: AutoencoderConfig) -> bool:
    """Whether a tensor of an `Autoencoder`'s state decides codes. What only the decoder reads does not."""
    if name in ("mean_M", "scale_M"):
        return config.encoder == "mdct"
    return name.startswith(("encoder.", "quantizer.")) and name not in TRAINING_ONLY

"""EnCodec (Defossez et al. 2022, arXiv 2210.13438) as a `Codec`: 24 kHz causal, and MusicGen's 32 kHz.

The network is transformers' `EncodecModel`. Its LSTM hears everything before a frame, so no finite context makes a
chunk equal to the whole: `encode_stream` and `decode_stream` carry the LSTM's state instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from partimento.codecs.codec import CHUNK_SECONDS
from partimento.codecs.stages import conv_reach, full_precision, one_pass, overlapped
from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec

BANDWIDTH = 6.0  # kbit/s, where the model has it: 8 of the 24 kHz model's 32 books


class EncodecCodec:
    """A transformers `EncodecModel` as a mono codec of the first `spec.codebooks` books. Its memory has no end."""

    context_frames: int | None = None

    def __init__(self, model: Any, spec: CodecSpec, device: torch.device | str = "cpu"):
        """Takes the model over: float32, eval mode, no gradients, on `device`. Raises CODEC030."""
        _refuse(model.config)
        self.spec = spec
        self.device = torch.device(device)
        self.model = model.float().eval().requires_grad_(False).to(self.device)
        self._hop = int(model.config.hop_length)
        self._encoder, self._decoder = _split(model.encoder.layers), _split(model.decoder.layers)

    def encode(self, wave_BCN: Tensor) -> Tensor:
        """codes [B, ceil(N / hop), K] int64 of mono waves [B, 1, N], each in one pass and alone. ValueError past 2^24.

        Alone, because the rounding of a batched pass depends on the batch's size, and a nearest neighbour may flip.
        """
        with one_pass(wave_BCN.shape[-1]):
            waves = wave_BCN.to(self.device, torch.float32)
            return torch.cat([self._quantize(self.model.encoder(wave_CN[None])) for wave_CN in waves])

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """mono waves [B, 1, T * hop] float32; the first k books alone are a coarser rate. ValueError past 2^24."""
        with one_pass(codes_BTK.shape[1] * self._hop):
            return torch.cat([self.model.decoder(self._dequantize(codes_TK[None])) for codes_TK in codes_BTK])

    def encode_stream(
        self, blocks: Iterable[NDArray[np.float32]], chunk_seconds: float = CHUNK_SECONDS
    ) -> Iterator[NDArray[np.int64]]:
        """codes [t, K] of a wave that comes in blocks [1, n] of any sizes: those of `encode` on the whole of it."""
        chunk = round(chunk_seconds * self.spec.frame_rate)
        before, lstm, after = self._encoder
        waves = (torch.as_tensor(block, dtype=torch.float32)[None].to(self.device) for block in blocks)
        rates, same = (self._hop, 1), (1, 1)
        hidden = overlapped(waves, before, rates, conv_reach(before, rates), chunk)
        latents = overlapped(_carried(lstm, hidden), after, same, conv_reach(after, same), chunk)
        for latent_1DT in latents:
            yield self._quantize(latent_1DT)[0].cpu().numpy()

    def decode_stream(
        self, blocks: Iterable[NDArray[np.integer]], chunk_seconds: float = CHUNK_SECONDS
    ) -> Iterator[NDArray[np.float32]]:
        """wave [1, n] of codes that come in blocks [t, k] of any sizes: that of `decode` on the whole of them."""
        chunk = round(chunk_seconds * self.spec.frame_rate)
        before, lstm, after = self._decoder
        latents = (self._dequantize(torch.from_numpy(block.astype(np.int64))[None]) for block in blocks)
        rates, same = (1, self._hop), (1, 1)
        hidden = overlapped(latents, before, same, conv_reach(before, same), chunk)
        for wave_1CN in overlapped(_carried(lstm, hidden), after, rates, conv_reach(after, rates), chunk):
            yield wave_1CN[0].cpu().numpy()

    def _quantize(self, latent_BDT: Tensor) -> Tensor:
        """codes [B, T, K]."""
        # The library takes a rate and rounds it down to whole books; half a book more keeps rounding out of it.
        config = self.model.config
        rate = (self.spec.codebooks + 0.5) * config.codebook_nbits * config.frame_rate / 1000
        return self.model.quantizer.encode(latent_BDT, rate).permute(1, 2, 0)

    def _dequantize(self, codes_BTK: Tensor) -> Tensor:
        """latents [B, D, T]."""
        return self.model.quantizer.decode(codes_BTK.to(self.device).permute(2, 0, 1))


def spec_of(model: Any, weights: str, books: int | None = None) -> CodecSpec:
    """What the model's codes are. `books`: how many of the model's; default those of 6 kbit/s, or of its highest rate.

    `weights` is the sha256 of the model's state. Raises CODEC030 for what is not supported (the 48 kHz model) and
    CODEC031 for more books than there are.
    """
    config = model.config
    _refuse(config)
    if books is None:
        rates = list(config.target_bandwidths)
        books = model.quantizer.get_num_quantizers_for_bandwidth(BANDWIDTH if BANDWIDTH in rates else rates[-1])
    return seanet_spec("encodec", config, int(config.hop_length), weights, books)


def seanet_spec(family: str, config: Any, hop: int, weights: str, books: int) -> CodecSpec:
    """The spec of `books` books of an EnCodec or Mimi. Raises CODEC031."""
    if not 1 <= books <= config.num_quantizers:
        raise PartimentoError(
            "CODEC031",
            f"this {family} has {config.num_quantizers} codebooks, not {books}",
            next=f"ask for 1 to {config.num_quantizers} books",
        )
    return CodecSpec(
        codec=f"{family}-{config.sampling_rate // 1000}k",
        weights=weights,
        sample_rate=config.sampling_rate,
        frame_rate=Fraction(config.sampling_rate, hop),
        cardinalities=(config.codebook_size,) * books,
    )


def _split(layers: nn.ModuleList) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The convolutions before the LSTM, the LSTM, and the convolutions after it."""
    (middle,) = (i for i, layer in enumerate(layers) if hasattr(layer, "lstm"))
    return nn.Sequential(*layers[:middle]), layers[middle], nn.Sequential(*layers[middle + 1 :])


def _carried(layer: Any, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """EncodecLSTM (an LSTM and a way around it) on blocks [1, D, t], its state carried from one to the next."""
    state = None
    for block_1DT in blocks:
        steps_T1D = block_1DT.permute(2, 0, 1)
        with full_precision():
            output_T1D, state = layer.lstm(steps_T1D, state)
        yield (output_T1D + steps_T1D).permute(1, 2, 0)


def _refuse(config: Any) -> None:
    """CODEC030 for what cannot be coded as a stream of codes alone."""
    reasons = {
        "it scales every second by its loudness, and the scale is not in the codes (normalize)": config.normalize,
        "it codes overlapping seconds apart and cross-fades them (chunk_length_s)": config.chunk_length_s is not None,
        f"it codes {config.audio_channels} channels together": config.audio_channels != 1,
        f"its norm {config.norm_type} hears the whole recording at once": config.norm_type != "weight_norm",
    }
    found = [reason for reason, present in reasons.items() if present]
    if found:
        raise PartimentoError(
            "CODEC030",
            f"this EnCodec ({config.sampling_rate} Hz) is not supported",
            why="; ".join(found),
            next="use encodec-24k or encodec-32k, with --layout left-right for two channels",
        )

"""Mimi (Defossez et al. 2024, arXiv 2410.00037) as a `Codec`: 24 kHz, 12.5 frames a second, the first book semantic.

The network is transformers' `MimiModel`: causal convolutions, and on both sides a transformer whose layers each look
back one sliding window. Stacked windows reach minutes back, so `encode_stream` and `decode_stream` carry the keys and
values of one window a layer instead of coding that much context again. Positions count on from the start of the
recording, in float32, as in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.codecs.codec import CHUNK_SECONDS
from partimento.codecs.encodec import seanet_spec
from partimento.codecs.stages import conv_reach, one_pass, overlapped
from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec

BOOKS = 8  # of 32: the books that speech models on Mimi use


class MimiCodec:
    """A transformers `MimiModel` as a mono codec of the first `spec.codebooks` books. Its memory has no end."""

    context_frames: int | None = None

    def __init__(self, model: Any, spec: CodecSpec, device: torch.device | str = "cpu"):
        """Takes the model over: float32, eval mode, no gradients, on `device`. Raises CODEC032."""
        _refuse(model)
        self.spec = spec
        self.device = torch.device(device)
        self.model = model.float().eval().requires_grad_(False).to(self.device)
        self._down = model.encoder.downsample.conv.stride[0]  # transformer positions a frame, on both sides
        self._hop = int(spec.hop)
        for module in model.quantizer.modules():
            if hasattr(module, "_embed"):
                module._embed = None  # computed once by the library, and then not moved with the model

    def encode(self, wave_BCN: Tensor) -> Tensor:
        """codes [B, ceil(N / hop), K] int64 of mono waves [B, 1, N], each in one pass and alone. ValueError past 2^24.

        Alone, because batched results differ from single ones (huggingface/transformers#43377, #43378).
        """
        books = self.spec.codebooks
        with one_pass(wave_BCN.shape[-1]):
            waves = wave_BCN.to(self.device, torch.float32)
            encoded = [self.model.encode(wave_CN[None], num_quantizers=books, use_streaming=False) for wave_CN in waves]
        return torch.cat([output.audio_codes for output in encoded]).transpose(1, 2)

    def decode(self, codes_BTK: Tensor) -> Tensor:
        """mono waves [B, 1, T * hop] float32; the first k books alone are a coarser rate. ValueError past 2^24."""
        with one_pass(codes_BTK.shape[1] * self._hop):
            codes_BKT = codes_BTK.to(self.device).transpose(1, 2)
            return torch.cat([self.model.decode(codes_KT[None]).audio_values for codes_KT in codes_BKT])

    def encode_stream(
        self, blocks: Iterable[NDArray[np.float32]], chunk_seconds: float = CHUNK_SECONDS
    ) -> Iterator[NDArray[np.int64]]:
        """codes [t, K] of a wave that comes in blocks [1, n] of any sizes: those of `encode` on the whole of it."""
        chunk = round(chunk_seconds * self.spec.frame_rate)
        encoder = self.model.encoder
        waves = (torch.as_tensor(block, dtype=torch.float32)[None].to(self.device) for block in blocks)
        rates, down = (self._hop // self._down, 1), (self._down, 1)
        reach = conv_reach(encoder.encoder_seanet, rates)
        hidden = overlapped(waves, encoder.encoder_seanet, rates, reach, chunk * self._down)
        hidden = _carried(encoder.encoder_transformer, hidden)
        for latent_1DT in overlapped(hidden, encoder.downsample, down, conv_reach(encoder.downsample, down), chunk):
            codes_K1T = self.model.quantizer.encode(latent_1DT, self.spec.codebooks)
            yield codes_K1T[:, 0].T.cpu().numpy()

    def decode_stream(
        self, blocks: Iterable[NDArray[np.integer]], chunk_seconds: float = CHUNK_SECONDS
    ) -> Iterator[NDArray[np.float32]]:
        """wave [1, n] of codes that come in blocks [t, k] of any sizes: that of `decode` on the whole of them."""
        chunk = round(chunk_seconds * self.spec.frame_rate)
        decoder, quantizer = self.model.decoder, self.model.quantizer
        codes = (torch.from_numpy(block.astype(np.int64).T)[None].to(self.device) for block in blocks)
        latents = (quantizer.decode(codes_1KT) for codes_1KT in codes)
        up, rates = (1, self._down), (1, self._hop // self._down)
        hidden = overlapped(latents, decoder.upsample, up, conv_reach(decoder.upsample, up), chunk)
        hidden = _carried(decoder.decoder_transformer, hidden)
        reach = conv_reach(decoder.decoder_seanet, rates)
        for wave_1CN in overlapped(hidden, decoder.decoder_seanet, rates, reach, chunk * self._down):
            yield wave_1CN[0].cpu().numpy()


def spec_of(model: Any, weights: str, books: int | None = None) -> CodecSpec:
    """What the model's codes are. `books`: how many of the model's; default 8, or all if it has fewer.

    `weights` is the sha256 of the model's state. Raises CODEC032 for a Mimi that cannot be streamed and CODEC031 for
    more books than there are.
    """
    _refuse(model)
    config = model.config
    hop = int(np.prod(config.upsampling_ratios)) * model.encoder.downsample.conv.stride[0]
    if books is None:
        books = min(BOOKS, config.num_quantizers)
    return seanet_spec("mimi", config, hop, weights, books)


def _carried(transformer: Any, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The transformer on blocks [1, D, t], with one window of keys and values a layer carried from one to the next."""
    cache = None
    for block_1DT in blocks:
        output = transformer(block_1DT.transpose(1, 2), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        yield output.last_hidden_state.transpose(1, 2)


def _refuse(model: Any) -> None:
    """CODEC032 for what is not the published structure, or cannot run on a stream."""
    config = model.config
    if model.encoder is None or model.decoder is None:
        reason = "it has only one of encoder and decoder"
    elif model.encoder.downsample is None:
        reason = "its frames are not coarser than its convolutions' (frame_rate)"
    elif config.audio_channels != 1:
        reason = f"it codes {config.audio_channels} channels together"
    elif not config.use_causal_conv:
        reason = "it is not causal"
    elif not config.sliding_window:
        reason = "its transformer looks back without a limit (sliding_window)"
    elif config.rope_parameters["rope_type"] != "default":
        reason = f"its positions depend on the length ({config.rope_parameters['rope_type']})"
    else:
        return
    raise PartimentoError("CODEC032", "this Mimi is not supported", why=reason, next="use mimi-24k")

"""Long audio in pieces: whatever the chunk, the codes are those of one pass."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partimento.codecs.codec import decode_whole, encode_whole, open_codec
from partimento.codecs.resident import ResidentCodec
from partimento.errors import PartimentoError
from partimento.keyed import torch_generator
from partimento.tokens.spec import CodecSpec
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig

HOP = 32
CONFIG = AutoencoderConfig(hop=HOP, width=16, encoder_layers=1, decoder_layers=2, latent=4, codebooks=3, cardinality=16)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_codec() -> ResidentCodec:
    torch.manual_seed(1)
    network = Autoencoder(CONFIG)
    network.set_statistics(noise(8, 1024))
    with torch.no_grad():
        network.quantizer.start(network.latent(noise(8, 1024)).flatten(0, 1), torch_generator("start"))
    spec = CodecSpec("random", "0" * 64, HOP * 100, Fraction(100), (16,) * 3)
    return ResidentCodec(spec, network, {})


CODEC = random_codec()


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 40 * HOP), chunk=st.integers(2, 30), seed=st.integers(0, 3))
def test_chunks_equal_one_pass(samples: int, chunk: int, seed: int) -> None:
    wave_1N = noise(1, samples, seed=seed).numpy()
    frames = math.ceil(samples / HOP)
    codes_TK = encode_whole(CODEC, wave_1N, chunk_seconds=chunk / 100)
    assert codes_TK.shape == (frames, 3)
    assert np.array_equal(codes_TK, CODEC.encode(torch.from_numpy(wave_1N)[None])[0].numpy())
    back_1N = decode_whole(CODEC, codes_TK, samples=samples, chunk_seconds=chunk / 100)
    assert back_1N.shape == (1, samples) and back_1N.dtype == np.float32
    whole = CODEC.decode(torch.from_numpy(codes_TK)[None])[0, :, :samples].numpy()
    np.testing.assert_allclose(back_1N, whole, atol=2e-6 * float(np.abs(whole).max()) + 1e-9)
    assert decode_whole(CODEC, codes_TK).shape == (1, frames * HOP)


def test_a_context_too_small_would_show() -> None:
    short = random_codec()
    short.context_frames = 0
    wave_1N = noise(1, 60 * HOP).numpy()
    assert not np.array_equal(encode_whole(short, wave_1N, 0.05), encode_whole(short, wave_1N, 10.0))


def test_what_cannot_be_coded() -> None:
    codes_TK = encode_whole(CODEC, noise(1, 100).numpy())
    for call, code in (
        (lambda: encode_whole(CODEC, np.zeros((1, 0), np.float32)), "CODEC004"),
        (lambda: decode_whole(CODEC, codes_TK[:0]), "CODEC004"),
        (lambda: decode_whole(CODEC, codes_TK, samples=len(codes_TK) * HOP + 1), "CODEC004"),
        (lambda: decode_whole(CODEC, codes_TK + 16), "CODEC005"),
        (lambda: decode_whole(CODEC, codes_TK[:, :2]), "CODEC005"),
    ):
        with pytest.raises(PartimentoError) as caught:
            call()
        assert caught.value.code == code


def test_unknown_codec() -> None:
    with pytest.raises(PartimentoError, match="mp3") as caught:
        open_codec("mp3")
    assert caught.value.code == "CODEC001"

"""DAC checkpoints opened by name of folder, held against transformers' own encode and decode on the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DacConfig, DacFeatureExtractor, DacModel
from transformers.utils import logging

from partimento.codecs.codec import decode_whole, encode_whole, open_codec

GEOMETRIES = [(16000, (2, 4, 5, 8), 12), (24000, (2, 4, 5, 8), 32), (44100, (2, 4, 8, 8), 9)]


def saved_model(folder: Path, rate: int, strides: tuple[int, ...], books: int) -> DacModel:
    torch.manual_seed(rate)
    config = DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        downsampling_ratios=list(strides),
        n_codebooks=books,
        codebook_size=1024,
        sampling_rate=rate,
    )
    model = DacModel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_(std=0.05)
            elif "codebook" in name or "conv" in name or "proj" in name:
                value.normal_(std=(0.4 if "decoder" in name else 1) * value[0].numel() ** -0.5)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    return DacModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module", params=GEOMETRIES, ids=lambda one: f"{one[0]} Hz")
def opened(request, tmp_path_factory):
    rate, strides, books = request.param
    folder = tmp_path_factory.mktemp("dac")
    return saved_model(folder, rate, strides, books), open_codec(str(folder)), int(np.prod(strides))


def noise(samples: int) -> np.ndarray:
    return 0.2 * np.random.default_rng(samples).standard_normal((1, samples)).astype(np.float32)


def library(model, wave_1N: np.ndarray, hop: int):
    extract = DacFeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=hop)
    inputs = extract(wave_1N[0], sampling_rate=model.config.sampling_rate, return_tensors="pt")["input_values"]
    with torch.no_grad():
        codes = model.encode(inputs).audio_codes
        return codes[0].T.numpy(), model.decode(audio_codes=codes).audio_values[0].numpy()


@pytest.mark.parametrize("samples", [1, 500, 512, 6001, 64000])
def test_codes_and_wave_are_the_library_s(opened, samples: int) -> None:
    model, codec, hop = opened
    wave = noise(samples)
    codes, heard = library(model, wave, hop)
    ours = codec.encode(torch.from_numpy(wave)[None])
    assert np.array_equal(ours[0].numpy(), codes)
    back = codec.decode(ours)[0, 0].numpy()
    assert len(back) == len(codes) * hop >= len(heard)
    if hop == 512:
        np.testing.assert_allclose(back, heard, atol=1e-6)
    else:
        # The library's decode ends 8 samples early; what lies before the reach of that cut is the same.
        assert len(heard) == len(back) - 8
        same = max(0, len(back) - 2000)
        np.testing.assert_allclose(back[:same], heard[:same], atol=1e-6)


def test_chunked_as_whole(opened) -> None:
    model, codec, hop = opened
    wave = noise(5 * codec.spec.sample_rate + 17)
    codes, heard = library(model, wave, hop)
    chunked = encode_whole(codec, wave, chunk_seconds=0.6)
    assert (chunked == codes).mean() == 1.0
    back = decode_whole(codec, chunked, samples=wave.shape[1], chunk_seconds=0.6)
    same = wave.shape[1] - 2000
    np.testing.assert_allclose(back[0, :same], heard[:same], atol=1e-6)


def test_fewer_books_as_the_library(opened) -> None:
    model, codec, _ = opened
    codes = codec.encode(torch.from_numpy(noise(5000))[None])[..., :3]
    with torch.no_grad():
        heard = model.decode(audio_codes=codes.transpose(1, 2)).audio_values[0].numpy()
    np.testing.assert_allclose(codec.decode(codes)[0, 0, :3000].numpy(), heard[:3000], atol=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_every_length_is_kept(geometry, step: int, tmp_path: Path) -> None:
    rate, strides, _ = geometry
    saved_model(tmp_path, rate, strides, books=1)
    codec, hop = open_codec(str(tmp_path)), int(np.prod(strides))
    wave = noise(3 * hop)
    for samples in {
        *range(1, 3 * hop + 1, step),
        *(n * hop + d for n in (1, 2, 3) for d in ((-1, 0, 1) if n < 3 else (-1, 0))),
    }:
        codes = encode_whole(codec, wave[:, :samples])
        assert len(codes) == -(-samples // hop)
        assert decode_whole(codec, codes, samples=samples).shape == (1, samples)

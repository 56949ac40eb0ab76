"""MimiCodec against transformers' own encode and decode, on a small random checkpoint read from disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_codecs import (
    HOP,
    assert_items_are_independent,
    assert_memory_is_constant,
    assert_streams_are_the_whole,
    mimi,
    sound,
    steps_with_influence,
)
from transformers import MimiConfig, MimiModel

from partimento.codecs.codec import decode_whole, encode_whole, open_codec
from partimento.codecs.mimi import MimiCodec, spec_of
from partimento.codecs.stages import conv_reach
from partimento.errors import PartimentoError

CHUNK = 1 / 60  # seconds: 20 frames, 40 positions of the transformers, whose windows are 12
# In frames and samples: one sample, about one frame, about one chunk, several, and a last part frame (of either half).
LENGTHS = [1, 5, HOP - 1, HOP, HOP + 1, 19 * HOP + 7, 20 * HOP, 20 * HOP + 1, 31 * HOP + 13, 40 * HOP, 133 * HOP + 1]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> MimiCodec:
    model = mimi(tmp_path_factory.mktemp("mimi"))
    return MimiCodec(model, spec_of(model, weights="0" * 64))


def test_the_spec_says_what_the_codes_are(codec: MimiCodec) -> None:
    assert codec.spec.codec == "mimi-24k"
    assert codec.spec.hop == HOP
    assert codec.spec.cardinalities == (64,) * 8
    assert codec.context_frames is None
    assert spec_of(codec.model, "0" * 64, books=10).codebooks == 10


def test_the_published_geometry() -> None:
    with torch.device("meta"):
        model = MimiModel(MimiConfig())
    spec = spec_of(model, "0" * 64)
    assert (spec.cardinalities, float(spec.frame_rate), spec.hop) == ((2048,) * 8, 12.5, 1920)


@pytest.mark.parametrize("samples", LENGTHS)
def test_whole_files_give_the_codes_and_the_wave_of_the_library(codec: MimiCodec, samples: int) -> None:
    wave = torch.from_numpy(sound(samples))[None]
    codes = codec.encode(wave)
    assert codes.shape == (1, codec.spec.frames(samples), 8)
    assert torch.equal(codes, codec.model.encode(wave, num_quantizers=8).audio_codes.transpose(1, 2))
    decoded = codec.decode(codes)
    assert decoded.shape == (1, 1, codes.shape[1] * HOP)
    torch.testing.assert_close(decoded, codec.model.decode(codes.transpose(1, 2)).audio_values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("sizes", [[10_000_000], [HOP * 20], [1, 977, 13]])
def test_streams_equal_the_whole(codec: MimiCodec, samples: int, sizes: list[int]) -> None:
    wave = sound(samples, seed=samples)
    assert_streams_are_the_whole(codec, wave, sizes, CHUNK)


@pytest.mark.parametrize("chunk", [1 / 1200, 4 / 1200, 7 / 1200])
def test_chunks_much_shorter_than_the_window_change_nothing(codec: MimiCodec, chunk: float) -> None:
    wave = sound(100 * HOP)
    whole = codec.encode(torch.from_numpy(wave)[None])
    np.testing.assert_array_equal(np.concatenate(list(codec.encode_stream([wave], chunk))), whole[0])
    decoded = np.concatenate(list(codec.decode_stream([whole[0].numpy()], chunk)), axis=1)
    np.testing.assert_allclose(decoded, codec.decode(whole)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_transformers_speak_and_reach_past_one_window(codec: MimiCodec, half: str) -> None:
    """What the small model is for: a chunk without the carried keys would not be the whole's."""
    transformer = getattr(getattr(codec.model, half), f"{half}_transformer")
    hidden = torch.randn(1, 40, 16, requires_grad=True)
    transformer(hidden).last_hidden_state[0, -1].sum().backward()
    assert hidden.grad is not None
    heard = torch.nonzero(hidden.grad[0].abs().sum(dim=-1))[:, 0]
    assert heard.min() == 39 - 2 * 11
    moved = transformer(hidden[:, 20:]).last_hidden_state[:, 0] - transformer(hidden).last_hidden_state[:, 20]
    assert moved.abs().max() > 0.1


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_reach_is_that_of_the_layers(codec: MimiCodec, half: str) -> None:
    stage, rates = {
        "encoder": (codec.model.encoder.encoder_seanet, (HOP // 2, 1)),
        "decoder": (codec.model.decoder.decoder_seanet, (1, HOP // 2)),
    }[half]
    left, right = conv_reach(stage, rates)
    width = 1 if half == "encoder" else 16
    steps = steps_with_influence(stage, rates, width)
    assert (steps.min(), steps.max()) == (30 - left, 30 + right)
    assert right == 0


def test_the_first_books_alone_decode(codec: MimiCodec) -> None:
    codes = codec.encode(torch.from_numpy(sound(100 * HOP))[None])
    for books in (1, 3):
        whole = codec.decode(codes[..., :books])
        torch.testing.assert_close(whole, codec.model.decode(codes[..., :books].transpose(1, 2)).audio_values)
        streamed = np.concatenate(list(codec.decode_stream([codes[0, :, :books].numpy()], CHUNK)), axis=1)
        np.testing.assert_allclose(streamed, whole[0], rtol=0, atol=1e-5)


def test_items_of_a_batch_do_not_depend_on_their_mates(codec: MimiCodec) -> None:
    assert_items_are_independent(codec)


def test_memory_does_not_grow_with_the_length(codec: MimiCodec) -> None:
    assert_memory_is_constant(codec, CHUNK)


def test_the_checkpoint_opens_by_its_folder_also_for_two_channels(codec: MimiCodec) -> None:
    folder = codec.model.config.name_or_path
    opened = open_codec(folder)
    wave = sound(10_001)
    whole = codec.encode(torch.from_numpy(wave)[None])[0]
    assert opened.spec.codec == codec.spec.codec and opened.spec.weights != codec.spec.weights
    np.testing.assert_array_equal(encode_whole(opened, wave, CHUNK), whole)
    stereo = open_codec(folder, layout="mid-side", books=(3, 2))
    codes = encode_whole(stereo, np.concatenate([wave, wave]), CHUNK)
    np.testing.assert_array_equal(codes[:, :3], whole[:, :3])
    assert decode_whole(stereo, codes, samples=10_001).shape == (2, 10_001)


def test_nothing_in_gives_nothing_out(codec: MimiCodec) -> None:
    assert list(codec.encode_stream([])) == []
    assert list(codec.decode_stream([])) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"audio_channels": 2}, "2 channels"),
        ({"use_causal_conv": False}, "causal"),
        ({"frame_rate": 25.0}, "frame_rate"),
        ({"encoder_config": None}, "only one"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
    ],
)
def test_what_is_not_the_published_structure_is_refused(change: dict[str, Any], word: str) -> None:
    with torch.device("meta"):
        model = MimiModel(MimiConfig(num_hidden_layers=1, **change))
    with pytest.raises(PartimentoError, match="Mimi") as caught:
        spec_of(model, "0" * 64)
    assert caught.value.code == "CODEC032" and word in str(caught.value.why)


def test_more_books_than_there_are(codec: MimiCodec) -> None:
    with pytest.raises(PartimentoError) as caught:
        spec_of(codec.model, "0" * 64, books=11)
    assert caught.value.code == "CODEC031"

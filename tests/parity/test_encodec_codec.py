"""EncodecCodec against transformers' own encode and decode, on small random checkpoints read from disk."""

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
    cut,
    encodec,
    sound,
    steps_with_influence,
)
from transformers import EncodecConfig, EncodecModel

from partimento.codecs.codec import decode_whole, encode_whole, open_codec
from partimento.codecs.encodec import EncodecCodec, spec_of
from partimento.codecs.stages import conv_reach
from partimento.errors import PartimentoError

CHUNK = 1 / 30  # seconds: 40 frames of the causal model, 53 of the other
# In frames and samples: one sample, about one frame, about one chunk and its context, several, and a last part frame.
LENGTHS = [1, 5, HOP - 1, HOP, HOP + 1, 39 * HOP + 7, 40 * HOP, 40 * HOP + 1, 55 * HOP + 13, 80 * HOP, 233 * HOP + 1]


@pytest.fixture(scope="module", params=[True, False], ids=["24k", "32k"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncodecCodec:
    model = encodec(tmp_path_factory.mktemp("encodec"), causal=request.param)
    return EncodecCodec(model, spec_of(model, weights="0" * 64))


def library_codes(codec: EncodecCodec, wave: np.ndarray) -> np.ndarray:
    bandwidth = codec.model.config.target_bandwidths[-1]
    with torch.no_grad():
        return codec.model.encode(torch.from_numpy(wave)[None], bandwidth=bandwidth).audio_codes[0, 0].T.numpy()


def test_the_spec_says_what_the_codes_are(codec: EncodecCodec) -> None:
    causal = codec.model.config.use_causal_conv
    assert codec.spec.codec == ("encodec-24k" if causal else "encodec-32k")
    assert codec.spec.hop == HOP
    assert codec.spec.cardinalities == ((64,) * 8 if causal else (64,) * 4)
    assert codec.context_frames is None


def test_6_kbit_are_8_books_of_the_published_24_kHz_and_all_4_of_the_32_kHz() -> None:
    with torch.device("meta"):
        fast = EncodecModel(EncodecConfig())
        slow = EncodecModel(published_32k())
    assert spec_of(fast, "0" * 64).cardinalities == (1024,) * 8
    assert spec_of(fast, "0" * 64, books=32).codebooks == 32
    assert spec_of(slow, "0" * 64).cardinalities == (2048,) * 4
    assert (spec_of(fast, "0" * 64).frame_rate, spec_of(slow, "0" * 64).frame_rate) == (75, 50)


def published_32k() -> EncodecConfig:
    return EncodecConfig(
        sampling_rate=32000,
        target_bandwidths=[2.2],
        use_causal_conv=False,
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=2048,
        codebook_dim=128,
    )


@pytest.mark.parametrize("samples", LENGTHS)
def test_whole_files_give_the_codes_and_the_wave_of_the_library(codec: EncodecCodec, samples: int) -> None:
    wave = sound(samples)
    codes = codec.encode(torch.from_numpy(wave)[None])
    assert codes.shape == (1, codec.spec.frames(samples), codec.spec.codebooks)
    np.testing.assert_array_equal(codes[0], library_codes(codec, wave))
    expected = codec.model.decode(codes.permute(0, 2, 1)[None], [None]).audio_values
    decoded = codec.decode(codes)
    assert decoded.shape == (1, 1, codes.shape[1] * HOP)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("sizes", [[10_000_000], [HOP * 40], [1, 977, 13]])
def test_streams_equal_the_whole(codec: EncodecCodec, samples: int, sizes: list[int]) -> None:
    wave = sound(samples, seed=samples)
    assert_streams_are_the_whole(codec, wave, sizes, CHUNK)


def test_chunks_as_short_as_the_reach_change_nothing(codec: EncodecCodec) -> None:
    """Of a frame each, the chunks grow to what the padding at both ends reflects, at every length of the last frame."""
    for samples in range(12 * HOP, 40 * HOP, 7):
        wave = sound(samples, seed=samples)
        whole = codec.encode(torch.from_numpy(wave)[None])
        np.testing.assert_array_equal(np.concatenate(list(codec.encode_stream([wave], 1e-6))), whole[0])
    decoded = np.concatenate(list(codec.decode_stream([whole[0].numpy()], 1e-6)), axis=1)
    np.testing.assert_allclose(decoded, codec.decode(whole)[0], rtol=0, atol=1e-5)


def test_where_the_chunks_are_cut_does_not_depend_on_the_blocks(codec: EncodecCodec) -> None:
    wave = sound(200 * HOP)
    lengths = [[len(codes) for codes in codec.encode_stream(cut(wave, 1, [n]), CHUNK)] for n in (7, 950, 100_000)]
    assert lengths[0] == lengths[1] == lengths[2]
    assert len(lengths[0]) >= 4


@pytest.mark.parametrize("coder", ["encoder", "decoder"])
def test_the_reach_is_that_of_the_layers(codec: EncodecCodec, coder: str) -> None:
    """Far from the edges, exactly the steps within the reach have an influence."""
    stage, rates = (codec._encoder[0], (HOP, 1)) if coder == "encoder" else (codec._decoder[2], (1, HOP))
    left, right = conv_reach(stage, rates)
    width = 1 if coder == "encoder" else stage[1].conv.in_channels
    steps = steps_with_influence(stage, rates, width)
    assert 30 - left <= steps.min() and steps.max() <= 30 + right
    assert steps.min() <= 30 - left + 1  # reflection at the end may ask for one step more
    assert right <= (0 if codec.model.config.use_causal_conv else steps.max() - 30 + 1)


def test_the_first_books_alone_decode(codec: EncodecCodec) -> None:
    wave = sound(100 * HOP)
    codes = codec.encode(torch.from_numpy(wave)[None])[..., :3]
    whole = codec.decode(codes)
    torch.testing.assert_close(whole, codec.model.decode(codes.permute(0, 2, 1)[None], [None]).audio_values)
    streamed = np.concatenate(list(codec.decode_stream([codes[0].numpy()], CHUNK)), axis=1)
    np.testing.assert_allclose(streamed, whole[0], rtol=0, atol=1e-5)


def test_items_of_a_batch_do_not_depend_on_their_mates(codec: EncodecCodec) -> None:
    assert_items_are_independent(codec)


def test_memory_does_not_grow_with_the_length(codec: EncodecCodec) -> None:
    assert_memory_is_constant(codec, CHUNK)


def test_the_checkpoint_opens_by_its_folder_also_for_two_channels(codec: EncodecCodec) -> None:
    folder = codec.model.config.name_or_path
    opened = open_codec(folder)
    wave = sound(30_001)
    assert opened.spec.codec == codec.spec.codec and opened.spec.weights != codec.spec.weights
    np.testing.assert_array_equal(encode_whole(opened, wave, CHUNK), library_codes(codec, wave))
    stereo = open_codec(folder, layout="mid-side", books=(3, 2))
    codes = encode_whole(stereo, np.concatenate([wave, wave]), CHUNK)
    np.testing.assert_array_equal(codes[:, :3], library_codes(codec, wave)[:, :3])
    assert decode_whole(stereo, codes, samples=30_001).shape == (2, 30_001)


@pytest.mark.parametrize("samples", [2**24 + 1, 20_000_001])
def test_past_what_the_library_pads_right_one_pass_is_refused(codec: EncodecCodec, samples: int) -> None:
    """The library pads integers by float32 arithmetic; if this fails, it no longer does and the limit can go."""
    conv = codec.model.encoder.layers[0]
    wave = torch.empty(1, 1, samples, device="meta")
    assert int(conv._get_extra_padding_for_conv1d(wave)) != 0  # a stride of 1 never needs any
    with pytest.raises(ValueError, match="one pass"):
        codec.encode(wave)
    with pytest.raises(ValueError, match="one pass"):
        codec.decode(torch.empty(1, samples // HOP + 1, 1, dtype=torch.long, device="meta"))


def test_nothing_in_gives_nothing_out(codec: EncodecCodec) -> None:
    assert list(codec.encode_stream([])) == []
    assert list(codec.decode_stream([])) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"normalize": True}, "loudness"),
        ({"chunk_length_s": 1.0, "overlap": 0.01}, "cross-fades"),
        ({"audio_channels": 2}, "2 channels"),
        ({"norm_type": "time_group_norm", "use_causal_conv": False}, "time_group_norm"),
    ],
)
def test_what_codes_alone_cannot_hold_is_refused(change: dict[str, Any], word: str) -> None:
    with torch.device("meta"):
        model = EncodecModel(EncodecConfig(**change))
    with pytest.raises(PartimentoError, match="EnCodec") as caught:
        spec_of(model, "0" * 64)
    assert caught.value.code == "CODEC030" and word in str(caught.value.why)


def test_more_books_than_there_are(codec: EncodecCodec) -> None:
    with pytest.raises(PartimentoError) as caught:
        spec_of(codec.model, "0" * 64, books=33)
    assert caught.value.code == "CODEC031"

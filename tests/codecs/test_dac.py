"""DAC: the context that is computed is the one that the layers have, and lengths are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tinydac import GEOMETRIES, tiny_dac

from partimento.codecs.codec import decode_whole, encode_stream, encode_whole
from partimento.codecs.dac import DacCodec, decoder_context, encoder_context, spec_of

STRIDES = [*set(GEOMETRIES.values()), (3, 5), (2, 2), (7,), (4, 2, 3)]


def codec_of(model) -> DacCodec:
    return DacCodec(model, spec_of(model, "0" * 64))


def reach(changed_T: torch.Tensor, place: int) -> int:
    frames = changed_T.nonzero()[:, 0]
    return int(max(place - frames.min(), frames.max() - place))


@pytest.mark.parametrize("strides", STRIDES)
def test_context_is_what_a_change_reaches(strides: tuple[int, ...]) -> None:
    model = tiny_dac(16000, strides).double()
    codec_of(tiny_dac(16000, strides))
    hop, frames = int(np.prod(strides)), 101
    with torch.no_grad():
        wave = torch.randn(1, 1, frames * hop, dtype=torch.float64)
        other = wave.clone()
        other[..., 50 * hop : 51 * hop] += torch.randn(hop, dtype=torch.float64)
        changed = (model.encoder(wave) != model.encoder(other)).any(1)[0]
        assert reach(changed, 50) == encoder_context(model)

        latent = torch.randn(1, model.config.hidden_size, frames, dtype=torch.float64)
        other = latent.clone()
        other[..., 50] += 1
        lengthened = DacCodec(model, spec_of(model, "0" * 64))._model.double()
        heard = lengthened.decoder(latent) != lengthened.decoder(other)
        assert reach(heard.reshape(frames, hop).any(1), 50) == decoder_context(model)


def test_published_context() -> None:
    assert encoder_context(tiny_dac(44100)) == 8  # 3733 samples to the left, 4244 to the right
    assert codec_of(tiny_dac(44100)).context_frames == 10


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
def test_spec(rate: int) -> None:
    spec = spec_of(tiny_dac(rate), "ab" * 32)
    assert spec.codec == f"dac-{rate // 1000}k" and spec.weights == "ab" * 32
    assert (spec.hop, spec.cardinalities, spec.layout) == (np.prod(GEOMETRIES[rate]), (64,) * 4, "mono")


def test_a_stride_of_one_has_no_exact_frames() -> None:
    with pytest.raises(ValueError, match="strides"):
        spec_of(tiny_dac(16000, (1, 4)), "0" * 64)


def test_fewer_books_are_a_coarser_rate() -> None:
    codec = codec_of(tiny_dac())
    codes = codec.encode(0.1 * torch.randn(1, 1, 5000))
    assert codec.decode(codes[..., :2]).shape == codec.decode(codes).shape == (1, 1, 5120)
    assert not torch.equal(codec.decode(codes[..., :2]), codec.decode(codes))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_chunks_equal_one_pass(rate: int) -> None:
    codec = codec_of(tiny_dac(rate))
    wave = 0.2 * np.random.default_rng(1).standard_normal((1, 3 * rate + 123)).astype(np.float32)
    whole = codec.encode(torch.from_numpy(wave)[None])[0].numpy()
    chunked = encode_whole(codec, wave, chunk_seconds=0.5)
    assert (chunked == whole).mean() == 1.0
    heard = codec.decode(torch.from_numpy(whole)[None])[0].numpy()
    np.testing.assert_allclose(
        decode_whole(codec, whole, samples=wave.shape[1], chunk_seconds=0.5), heard[:, : wave.shape[1]], atol=1e-5
    )


def test_a_frame_less_of_context_shows() -> None:
    codec = codec_of(tiny_dac())
    codec.context_frames = encoder_context(codec._model) - 1
    wave = torch.randn(1, 1, 512 * 200, dtype=torch.float64)
    model = codec._model.double()
    size = 60 * 512
    with torch.no_grad():
        cut = model.encoder(wave[..., :size])
        whole = model.encoder(wave)
    kept = 60 - codec.context_frames
    assert not torch.allclose(cut[..., kept - 1], whole[..., kept - 1], atol=0, rtol=1e-14)
    assert torch.allclose(cut[..., : kept - 1], whole[..., : kept - 1], atol=1e-9)


def test_in_a_batch_as_alone() -> None:
    codec = codec_of(tiny_dac())
    wave = 0.2 * np.random.default_rng(2).standard_normal((1, 8 * 44100)).astype(np.float32)
    alone = np.concatenate(list(encode_stream(codec, [wave], 0.5, batch=1)))
    together = np.concatenate(list(encode_stream(codec, [wave], 0.5, batch=4)))
    assert np.array_equal(alone, together)

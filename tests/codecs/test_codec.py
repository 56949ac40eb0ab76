"""Long audio in pieces: whatever the chunk, the codes are those of one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partimento.codecs.codec import decode_stream, decode_whole, encode_stream, encode_whole, open_codec, open_like
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


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9 * HOP), min_size=1, max_size=12).filter(any),
    chunk=st.integers(1, 12),
    batch=st.sampled_from([1, 2, 5]),
)
def test_blocks_do_not_matter(sizes: list[int], chunk: int, batch: int) -> None:
    samples = sum(sizes)
    wave_1N = noise(1, samples, seed=samples).numpy()
    blocks = np.split(wave_1N, np.cumsum(sizes)[:-1], axis=1)
    codes_TK = CODEC.encode(torch.from_numpy(wave_1N)[None])[0].numpy()
    pieces = list(encode_stream(CODEC, iter(blocks), chunk / 100, batch))
    assert np.array_equal(np.concatenate(pieces), codes_TK)
    assert len(pieces) >= len(codes_TK) / (chunk + 2 * CODEC.context_frames)
    parts = np.split(codes_TK, sorted(size % len(codes_TK) for size in sizes))
    heard = list(decode_stream(CODEC, iter(parts), samples, chunk / 100, batch))
    whole = CODEC.decode(torch.from_numpy(codes_TK)[None])[0, :, :samples].numpy()
    np.testing.assert_allclose(np.concatenate(heard, axis=1), whole, atol=2e-6 * float(np.abs(whole).max()) + 1e-9)


def test_every_window_has_one_length() -> None:
    seen: list[int] = []

    class Watched(ResidentCodec):
        def encode(self, wave_BCN: Tensor) -> Tensor:
            seen.append(wave_BCN.shape[-1])
            return super().encode(wave_BCN)

    codec = random_codec()
    codec.__class__ = Watched
    size = (10 + 2 * codec.context_frames) * HOP
    encode_whole(codec, noise(1, 7 * size + 5).numpy(), chunk_seconds=0.1)
    assert {math.ceil(n / HOP) * HOP for n in seen} == {size} and len(seen) > 7


def test_memory_does_not_grow_with_the_recording() -> None:
    """An hour of blocks goes in one by one; what waits inside is never more than a window and a block."""
    codec, block = random_codec(), np.zeros((1, 37 * HOP), np.float32)
    given = 0

    def blocks(count: int) -> Iterator[np.ndarray]:
        nonlocal given
        for _ in range(count):
            given += 37
            yield block

    taken = waiting = 0
    for codes_TK in encode_stream(codec, blocks(300), chunk_seconds=0.5, batch=2):
        taken += len(codes_TK)
        waiting = max(waiting, given - taken)
    assert taken == given == 300 * 37
    assert waiting <= 3 * (50 + 2 * codec.context_frames) + 2 * 37


class Miscounts:
    """A codec whose last frame or sample is missing, or that goes on too long."""

    def __init__(self, frames: int, samples: int, context_frames: int | None = 0):
        self.spec = CodecSpec("miscounts", "0" * 64, 3200, Fraction(100), (4,))
        self.frames, self.samples, self.context_frames = frames, samples, context_frames

    def encode(self, wave_BCN: Tensor) -> Tensor:
        return torch.zeros(len(wave_BCN), math.ceil(wave_BCN.shape[-1] / 32) + self.frames, 1, dtype=torch.long)

    def decode(self, codes_BTK: Tensor) -> Tensor:
        return torch.zeros(len(codes_BTK), 1, codes_BTK.shape[1] * 32 + self.samples)

    def encode_stream(self, blocks: Iterable[np.ndarray], chunk_seconds: float) -> Iterator[np.ndarray]:
        return (self.encode(torch.from_numpy(block)[None])[0].numpy() for block in blocks)

    def decode_stream(self, blocks: Iterable[np.ndarray], chunk_seconds: float) -> Iterator[np.ndarray]:
        return (self.decode(torch.from_numpy(block)[None])[0].numpy() for block in blocks)


@pytest.mark.parametrize("context", [0, None])
def test_a_codec_that_miscounts_is_found_out(context: int | None) -> None:
    wave_1N, codes_TK = noise(1, 1000).numpy(), np.zeros((20, 1), np.int64)
    exact = Miscounts(0, 0, context)
    assert encode_whole(exact, wave_1N).shape == (32, 1) and decode_whole(exact, codes_TK).shape == (1, 640)
    for off in (-8, 8, 1):
        for call in (
            lambda off=off: encode_whole(Miscounts(off, 0, context), wave_1N),
            lambda off=off: decode_whole(Miscounts(0, off, context), codes_TK),
        ):
            with pytest.raises(PartimentoError) as caught:
                call()
            assert caught.value.code == "CODEC018"


def test_a_stream_that_ends_too_early() -> None:
    codes_TK = encode_whole(CODEC, noise(1, 100).numpy())
    with pytest.raises(PartimentoError) as caught:
        list(decode_stream(CODEC, [codes_TK], samples=4 * HOP + 1))
    assert caught.value.code == "CODEC004"
    with pytest.raises(PartimentoError) as caught:
        list(encode_stream(CODEC, iter([])))
    assert caught.value.code == "CODEC004"


def test_codecs_of_one_s_own() -> None:
    assert open_codec("toycodec:open_toy").spec.codec == "toycodec:open_toy"
    two = open_codec("toycodec:open_toy", layout="left-right", books=(2, 1))
    assert open_like(two.spec).spec == two.spec and two.spec.books == (2, 1)
    for name in ("toycodec:absent", "no_such_module:open", "toycodec:open_broken"):
        with pytest.raises(PartimentoError) as caught:
            open_codec(name)
        assert caught.value.code == "PACK020"


def test_unknown_codec() -> None:
    with pytest.raises(PartimentoError, match="mp3") as caught:
        open_codec("mp3")
    assert caught.value.code == "CODEC001"

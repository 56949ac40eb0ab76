"""Channel layouts: what a recording becomes, and a mono codec that codes two channels."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.codecs.codec import decode_stream, decode_whole, encode_stream, encode_whole
from partimento.codecs.layout import LaidOut, arrange, coarser, lay_out
from partimento.errors import PartimentoError
from partimento.tokens.spec import CodecSpec

STEPS = 1 << 12


class Exact:
    """Mono, 8 kHz, hop 4, 4 books: each book refines the rounding of the frame's first sample by 3 bits.

    Inside of [-1, 1] the result is the first sample of each frame to 1 / 4096, so everything around it can be exact.
    """

    context_frames: int | None = 0
    spec = CodecSpec("exact", "0" * 64, 8000, Fraction(2000), (8,) * 4)

    def encode(self, wave_BCN):
        first_BT = wave_BCN[:, 0, ::4]
        whole = ((first_BT.double() + 1) / 2 * (STEPS - 1)).round().long()
        return torch.stack([whole >> shift & 7 for shift in (9, 6, 3, 0)], dim=-1)

    def decode(self, codes_BTK):
        whole = sum(codes_BTK[..., k] << (9, 6, 3, 0)[k] for k in range(codes_BTK.shape[-1]))
        level_BT = whole.double() / (STEPS - 1) * 2 - 1
        return level_BT.float().repeat_interleave(4, -1)[:, None]


class Endless(Exact):
    """The same with a memory: every frame carries the sum of all before it, so it must be coded in order."""

    context_frames = None

    def encode_stream(self, blocks, chunk_seconds) -> Iterator[np.ndarray]:
        carried = 0
        for block in blocks:
            codes = self.encode(torch.from_numpy(np.asarray(block, np.float32))[None])[0].numpy()
            codes[:, 3] = (np.cumsum(codes[:, 3]) + carried) % 8
            carried = int(codes[-1, 3])
            yield codes

    def decode_stream(self, blocks, chunk_seconds) -> Iterator[np.ndarray]:
        before = 0
        for block in blocks:
            block = block.copy()
            if block.shape[1] == 4:
                last = int(block[-1, 3])
                block[:, 3] = np.diff(block[:, 3], prepend=before) % 8
                before = last
            yield self.decode(torch.from_numpy(block)[None])[0].numpy()


def stereo(frames: int, seed: int = 0) -> np.ndarray:
    held = np.random.default_rng(seed).uniform(-0.9, 0.9, (2, frames)).astype(np.float32)
    return np.repeat(held, 4, axis=1)


def refused(code: str, call) -> PartimentoError:
    with pytest.raises(PartimentoError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def test_mono_is_the_mean_and_says_what_it_was() -> None:
    arranged = arrange(np.array([[1.0, 0.5, -1.0], [0.0, 0.5, 1.0]], np.float32))
    assert arranged.wave_CN.tolist() == [[0.5, 0.5, 0.0]]
    assert (arranged.channels, arranged.layout, arranged.done) == (2, "mono", "downmixed")
    assert arranged.wave_CN.dtype == np.float32
    assert arrange(np.ones((5, 3), np.float32)).channels == 5


def test_mono_stays_as_it_is() -> None:
    mono = np.array([[0.1, 0.2]], np.float32)
    assert np.array_equal(arrange(mono).wave_CN, mono)
    assert (arrange(mono).channels, arrange(mono).done) == (1, "")


@pytest.mark.parametrize("layout", ["left-right", "mid-side"])
def test_two_channels_are_left_and_right(layout: str) -> None:
    wave = stereo(3)
    arranged = arrange(wave, layout)
    assert np.array_equal(arranged.wave_CN, wave) and (arranged.channels, arranged.done) == (2, "")


@pytest.mark.parametrize("layout", ["left-right", "mid-side"])
def test_no_upmix_without_asking(layout: str) -> None:
    mono = np.array([[0.1, 0.2]], np.float32)
    assert "--upmix" in str(refused("CODEC011", lambda: arrange(mono, layout)).next)
    asked = arrange(mono, layout, upmix=True)
    assert np.array_equal(asked.wave_CN, np.concatenate([mono, mono]))
    assert (asked.channels, asked.done) == (1, "upmixed")
    refused("CODEC011", lambda: arrange(np.zeros((3, 8), np.float32), layout, upmix=True))


def test_unknown_layout() -> None:
    assert "quadrophonic" in refused("CODEC003", lambda: arrange(np.zeros((4, 8), np.float32), "quadrophonic")).message
    refused("CODEC003", lambda: lay_out(Exact(), "5.1"))


def test_left_right_is_two_codings() -> None:
    wave = stereo(50)
    codec = lay_out(Exact(), "left-right", (4, 2))
    assert codec.spec.layout == "left-right" and codec.spec.books == (4, 2) and codec.spec.channels == 2
    codes = encode_whole(codec, wave)
    for channel, columns in enumerate((slice(0, 4), slice(4, 6))):
        alone = encode_whole(Exact(), wave[channel : channel + 1])
        assert np.array_equal(codes[:, columns], alone[:, : columns.stop - columns.start])
    back = decode_whole(codec, codes)
    np.testing.assert_allclose(back[0], wave[0], atol=2 / STEPS)
    assert np.abs(back[1] - wave[1]).max() > 4 / STEPS  # two books less


def test_mid_side_is_the_half_sum_and_the_half_difference() -> None:
    wave = stereo(50)
    codec = lay_out(Exact(), "mid-side")
    codes = encode_whole(codec, wave)
    assert codec.spec.books == (4, 4)
    mid, side = (wave[:1] + wave[1:]) / 2, (wave[:1] - wave[1:]) / 2
    assert np.array_equal(codes, np.concatenate([encode_whole(Exact(), mid), encode_whole(Exact(), side)], axis=1))
    np.testing.assert_allclose(decode_whole(codec, codes), wave, atol=4 / STEPS)


def test_fewer_books_in_mono() -> None:
    wave = stereo(20)[:1]
    codec = lay_out(Exact(), books=(2,))
    assert (codec.spec.codebooks, codec.spec.books, codec.spec.layout) == (2, (), "mono")
    assert np.array_equal(encode_whole(codec, wave), encode_whole(Exact(), wave)[:, :2])
    assert decode_whole(codec, encode_whole(codec, wave), samples=79).shape == (1, 79)


def test_a_codec_stays_itself() -> None:
    base = Exact()
    assert lay_out(base) is base and lay_out(base, "mono", (4,)) is base
    two = lay_out(base, "mid-side", (4, 1))
    assert lay_out(two, "mid-side", (4, 1)) is two
    refused("CODEC003", lambda: lay_out(two, "left-right"))


@pytest.mark.parametrize("books", [(5,), (0,), (4, 4), ()])
def test_books_that_are_not_there(books: tuple[int, ...]) -> None:
    refused("CODEC012", lambda: lay_out(Exact(), "mono", books))


@pytest.mark.parametrize("books", [(4,), (4, 5), (4, 4, 4)])
def test_books_of_two_channels(books: tuple[int, ...]) -> None:
    refused("CODEC012", lambda: lay_out(Exact(), "mid-side", books))


def test_channels_must_be_those_of_the_layout() -> None:
    refused("CODEC011", lambda: encode_whole(Exact(), stereo(3)))
    refused("CODEC011", lambda: encode_whole(lay_out(Exact(), "mid-side"), stereo(3)[:1]))
    refused("CODEC005", lambda: decode_whole(lay_out(Exact(), "mid-side"), np.zeros((5, 4), np.int64)))


def test_coarser_takes_the_first_books_of_each_channel() -> None:
    codec = lay_out(Exact(), "mid-side", (4, 2))
    codes = encode_whole(codec, stereo(10))
    for most, columns in ((1, [0, 4]), (2, [0, 1, 4, 5]), (3, [0, 1, 2, 4, 5]), (4, [0, 1, 2, 3, 4, 5])):
        fewer, found = coarser(codec, most)
        assert found == columns and fewer.spec.codebooks == len(columns)
        assert np.array_equal(encode_whole(fewer, stereo(10)), codes[:, columns])
    mono, found = coarser(Exact(), 3)
    assert found == [0, 1, 2] and mono.spec.layout == "mono"


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any),
    cut=st.integers(1, 50),
    layout=st.sampled_from(["mono", "left-right", "mid-side"]),
    endless=st.booleans(),
)
def test_streams_in_any_layout(sizes: list[int], cut: int, layout: str, endless: bool) -> None:
    """The same codes and samples whatever the blocks; a codec with memory keeps one memory a channel."""
    base = Endless() if endless else Exact()
    codec = lay_out(base, layout, (3,) if layout == "mono" else (4, 4))
    wave = stereo(200, seed=len(sizes))[: codec.spec.channels, : sum(sizes)]
    blocks = np.split(wave, np.cumsum(sizes)[:-1], axis=1)
    codes = encode_whole(codec, wave, chunk_seconds=0.005)
    assert isinstance(codec, LaidOut)
    assert np.array_equal(np.concatenate(list(encode_stream(codec, blocks, 0.005))), codes)
    parts = [codes[i : i + cut] for i in range(0, len(codes), cut)]
    back = np.concatenate(list(decode_stream(codec, parts, sum(sizes), 0.005)), axis=1)
    assert np.array_equal(back, decode_whole(codec, codes, sum(sizes)))
    assert back.shape == wave.shape
    if layout != "mono":
        np.testing.assert_allclose(back, wave, atol=4 / STEPS)


def test_spec_keeps_mono_as_it_was() -> None:
    mono = Exact.spec.to_json()
    assert "books" not in mono and CodecSpec.from_json(mono) == Exact.spec
    two = lay_out(Exact(), "mid-side", (4, 1)).spec
    assert two.to_json()["books"] == [4, 1] and CodecSpec.from_json(two.to_json()) == two


@pytest.mark.parametrize(
    ("layout", "books"), [("mono", (4,)), ("mid-side", ()), ("mid-side", (4, 1)), ("mid-side", (5, -1)), ("ring", ())]
)
def test_spec_refuses_what_does_not_add_up(layout: str, books: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"books|layout"):
        CodecSpec("x", "0" * 64, 8000, Fraction(50), (8,) * 4, layout, books)

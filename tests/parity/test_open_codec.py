"""Every family is opened by the same name of a folder, and is laid out for two channels in the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import encodec, mimi, sound

from partimento.codecs.codec import Codec, decode_stream, encode_stream, encode_whole, open_codec, open_like
from partimento.codecs.measure import seams


@pytest.fixture(scope="module", params=["encodec-24k", "encodec-32k", "mimi-24k"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    place: Path = tmp_path_factory.mktemp("codec")
    if request.param == "mimi-24k":
        mimi(place)
    else:
        encodec(place, causal=request.param == "encodec-24k")
    return request.param, str(place)


def test_named_by_family_and_rate(folder: tuple[str, str]) -> None:
    name, place = folder
    codec = open_codec(place)
    assert codec.spec.codec == name and len(codec.spec.weights) == 64
    assert open_like(codec.spec, name=place).spec == codec.spec


def test_books_may_be_fewer(folder: tuple[str, str]) -> None:
    _, place = folder
    wave = sound(4000).astype(np.float32)
    codec, fewer = open_codec(place), open_codec(place, books=(3,))
    assert fewer.spec.codebooks == 3 and fewer.spec.weights == codec.spec.weights
    assert np.array_equal(encode_whole(fewer, wave), encode_whole(codec, wave)[:, :3])


def test_chunks_equal_one_pass(folder: tuple[str, str]) -> None:
    found = seams(open_codec(folder[1]), sound(20_000).astype(np.float32), chunk_seconds=0.1)
    assert found.seams >= 5 and found.equal == 1.0


def test_mid_and_side_with_unequal_books(folder: tuple[str, str]) -> None:
    _, place = folder
    codec: Codec = open_codec(place, layout="mid-side", books=(4, 2))
    left, right = sound(9001).astype(np.float32), sound(9001)[:, ::-1].astype(np.float32)
    wave = np.concatenate([left, right])
    codes = np.concatenate(list(encode_stream(codec, np.array_split(wave, 7, axis=1), 0.1)))
    mono = open_codec(place, books=(4,))
    assert np.array_equal(codes[:, :4], encode_whole(mono, (left + right) / 2))
    assert np.array_equal(codes[:, 4:], encode_whole(mono, (left - right) / 2)[:, :2])
    back = np.concatenate(list(decode_stream(codec, np.array_split(codes, 5), samples=9001)), axis=1)
    assert back.shape == (2, 9001)
    with torch.no_grad():
        whole = codec.decode(torch.from_numpy(codes)[None])[0, :, :9001].numpy()
    np.testing.assert_allclose(back, whole, atol=1e-5)

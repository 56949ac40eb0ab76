"""The codec in the package: its card, its size, its codebooks, exact lengths, and how it does on files it never saw."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from partimento.audio.spectra import mel7, si_sdr
from partimento.audio.synth import band
from partimento.codecs.codec import Codec, decode_whole, encode_whole, open_codec
from partimento.codecs.measure import low_pass, measure, usage
from partimento.codecs.resident import CARD, HOME, WEIGHTS, load_resident, read_card
from partimento.errors import PartimentoError
from partimento.training.tasks.crops import gather

AUDIO = Path(__file__).parents[3] / "shared" / "audio"
RATE = 44100
needs_audio = pytest.mark.skipif(not AUDIO.is_dir(), reason="the recordings of ../shared/audio are not here")


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec()


@pytest.fixture(scope="module")
def loops() -> list[NDArray[np.float32]]:
    """Loops of a book that the codec was not trained on."""
    return [band(900, index, seconds=4.0).wave_CN.mean(0) for index in range(4)]


def test_card_and_weights_belong_together() -> None:
    card, content = read_card(), (HOME / WEIGHTS).read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(content).hexdigest()
    assert card["weights_bytes"] == len(content) <= 10_000_000
    assert sum(file.stat().st_size for file in HOME.iterdir()) <= 10_000_000
    assert {"name", "licence", "data", "recipe", "figures"} <= card.keys()
    assert card["figures"]["all"]["mel7"] <= 2.2
    assert "/" not in json.dumps(card["recipe"]["config"]["data"]["folders"])


def test_geometry_is_dac_s(codec: Codec) -> None:
    spec = codec.spec
    assert (spec.sample_rate, spec.hop, spec.cardinalities) == (44100, 512, (1024,) * 9)
    assert spec.weights == read_card()["weights_sha256"]


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    content = bytearray((HOME / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    (tmp_path / CARD).write_bytes((HOME / CARD).read_bytes())
    with pytest.raises(PartimentoError, match="damaged") as caught:
        load_resident(tmp_path)
    assert caught.value.code == "CODEC002"
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(PartimentoError) as caught:
        load_resident(tmp_path)
    assert caught.value.code == "CODEC002"


@settings(max_examples=15, deadline=None)
@given(samples=st.one_of(st.integers(1, 1537), st.integers(1, 20000)))
def test_lengths_are_exact(codec: Codec, samples: int) -> None:
    wave_1N = band_noise(samples)
    codes_TK = encode_whole(codec, wave_1N)
    assert codes_TK.shape == (math.ceil(samples / 512), 9)
    assert codes_TK.min() >= 0 and codes_TK.max() < 1024
    assert decode_whole(codec, codes_TK, samples=samples).shape == (1, samples)


def band_noise(samples: int) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(samples).standard_normal((1, samples))).astype(np.float32)


def test_chunked_equals_whole(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    wave_1N = np.concatenate(loops[:2])[None]
    whole = encode_whole(codec, wave_1N, chunk_seconds=1000.0)
    chunked = encode_whole(codec, wave_1N, chunk_seconds=1.0)
    assert int((whole != chunked).sum()) == 0
    np.testing.assert_allclose(
        decode_whole(codec, whole, chunk_seconds=1.0), decode_whole(codec, whole, chunk_seconds=1000.0), atol=1e-5
    )


def test_batch_equals_single(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    waves = torch.from_numpy(np.stack([wave[:60000] for wave in loops[:3]]))[:, None]
    codes = codec.encode(waves)
    decoded = codec.decode(codes)
    for b in range(3):
        assert torch.equal(codec.encode(waves[b : b + 1])[0], codes[b])
        assert torch.allclose(codec.decode(codes[b : b + 1])[0], decoded[b], atol=1e-5)


def test_silence_stays_silent(codec: Codec) -> None:
    silence = np.zeros((1, 44100), np.float32)
    back = decode_whole(codec, encode_whole(codec, silence), samples=44100)
    assert float(np.sqrt(np.square(back).mean())) < 10 ** (-70 / 20)


def test_every_codebook_is_used_on_music_it_never_heard(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    measured = measure(codec, loops)
    assert min(measured.entropy_K) > 0.4 * 10
    assert measured.mel7 < 2.2 < measured.mel7_low_pass


def test_coarse_codes_are_a_coarse_rendering(codec: Codec, loops: list[NDArray[np.float32]]) -> None:
    wave = torch.from_numpy(loops[0])[None]
    codes = codec.encode(wave[:, None])
    distances = [float(mel7(codec.decode(codes[..., :k])[:, 0, : wave.shape[1]], wave, RATE)) for k in (1, 3, 9)]
    assert distances[0] > distances[1] > distances[2]


@needs_audio
def test_recordings_it_never_saw(codec: Codec) -> None:
    from partimento.config import SoundData

    held_out = gather(SoundData(folders=[str(AUDIO / "loops"), str(AUDIO / "tunes")], band_loops=0), RATE).held_out
    assert len(held_out) >= 20
    by_kind = {
        kind: measure(codec, [r.wave_N[: 2 * RATE] for r in held_out if r.kind == kind]) for kind in ("loops", "tunes")
    }
    assert all(measured.mel7 <= 2.2 for measured in by_kind.values())
    assert all(min(measured.entropy_K) > 0.4 * 10 for measured in by_kind.values())


def test_usage_closed_form() -> None:
    codes = np.array([[0, 1], [1, 1], [2, 1], [3, 1]])
    entropy, used = usage(codes, (4, 8))
    assert entropy == [2.0, 0.0] and used == [1.0, 0.125]


def test_low_pass_keeps_what_is_below() -> None:
    time = torch.arange(44100) / RATE
    low, high = torch.sin(2 * math.pi * 500 * time)[None], torch.sin(2 * math.pi * 5000 * time)[None]
    assert float(si_sdr(low_pass(low + high, RATE), low)) > 60

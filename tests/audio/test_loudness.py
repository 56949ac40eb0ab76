"""Loudness against the closed forms of BS.1770: a 997 Hz sine at full scale in one channel reads -3.01 LUFS."""

from __future__ import annotations

import math

import numpy as np
import pyloudnorm
import pytest

from partimento.audio.loudness import Meter, loudness, peak_dbfs


def sine(channels: int = 1, level_db: float = 0.0, rate: int = 48000, seconds: float = 3.0) -> np.ndarray:
    one = 10 ** (level_db / 20) * np.sin(2 * np.pi * 997 * np.arange(round(seconds * rate)) / rate)
    return np.tile(one, (channels, 1)).astype(np.float32)


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_full_scale_sine(rate: int) -> None:
    assert loudness(sine(rate=rate), rate) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("level", [-6.0, -23.0, -40.0])
def test_level_moves_it_dB_for_dB(level: float) -> None:
    assert loudness(sine(level_db=level), 48000) == pytest.approx(level - 3.01, abs=0.05)


def test_the_powers_of_both_channels_add() -> None:
    assert loudness(sine(channels=2), 48000) == pytest.approx(-3.01 + 10 * math.log10(2), abs=0.05)


def test_silence_is_gated_out() -> None:
    """A pause as long as the music leaves the loudness of the music (the ungated mean would be 3 dB less)."""
    wave_CN = np.concatenate([sine(seconds=5), np.zeros((1, 5 * 48000), np.float32)], 1)
    assert loudness(wave_CN, 48000) == pytest.approx(-3.01, abs=0.2)


def test_short_and_silent() -> None:
    assert loudness(sine(seconds=0.39), 48000) is None
    assert loudness(sine(seconds=0.4), 48000) is not None
    assert loudness(np.zeros((2, 48000), np.float32), 48000) == -math.inf
    assert loudness(sine(level_db=-80.0), 48000) == -math.inf


def test_too_many_channels() -> None:
    with pytest.raises(ValueError, match="channels"):
        loudness(np.zeros((6, 48000), np.float32), 48000)


def test_peak() -> None:
    assert peak_dbfs(np.array([[0.1, -0.5], [0.25, 0.0]])) == pytest.approx(-6.0206, abs=1e-3)
    assert peak_dbfs(np.array([[2.0]])) == pytest.approx(6.0206, abs=1e-3)
    assert peak_dbfs(np.zeros((1, 9))) == -math.inf
    assert peak_dbfs(np.zeros((1, 0))) == -math.inf


def piece(rate: int, channels: int, seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in phrases between -50 and 0 dB with pauses, so that both gates decide something."""
    rng = np.random.default_rng(seed)
    phrases = []
    while sum(phrase.shape[1] for phrase in phrases) < seconds * rate:
        level = 10 ** (rng.uniform(-50, 0) / 20) * (rng.random() > 0.2)
        phrases.append(level * rng.uniform(-1, 1, (channels, int(rng.uniform(0.3, 2) * rate))))
    return np.concatenate(phrases, 1)[:, : round(seconds * rate)].astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_as_pyloudnorm(rate: int, channels: int) -> None:
    wave_CN = piece(rate, channels, 12.0, seed=rate + channels)
    theirs = pyloudnorm.Meter(rate).integrated_loudness(wave_CN.T.astype(np.float64))
    assert loudness(wave_CN, rate) == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize("sizes", [[1 << 17], [1000], [1, 17, 4410, 60_000], [4409], [4411]])
def test_the_blocks_do_not_matter(sizes: list[int]) -> None:
    wave_CN = piece(44100, 2, 7.3)
    meter, at, turn = Meter(2, 44100), 0, 0
    while at < wave_CN.shape[1]:
        size = sizes[turn % len(sizes)]
        meter.add(wave_CN[:, at : at + size])
        at, turn = at + size, turn + 1
    assert meter.loudness == pytest.approx(loudness(wave_CN, 44100), abs=1e-9)
    assert meter.peak_dbfs == peak_dbfs(wave_CN)


def test_a_meter_says_what_it_cannot_say() -> None:
    empty, wide, silent = Meter(2, 48000), Meter(6, 48000), Meter(1, 48000)
    wide.add(piece(48000, 6, 1.0))
    silent.add(np.zeros((1, 48000), np.float32))
    assert empty.loudness is None and empty.peak_dbfs == -math.inf
    assert wide.loudness is None and wide.peak_dbfs < 0
    assert silent.loudness == -math.inf

"""Loudness against the closed forms of BS.1770: a 997 Hz sine at full scale in one channel reads -3.01 LUFS."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partimento.audio.loudness import loudness, peak_dbfs


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

"""Closed forms of the measures."""

import math

import numpy as np
import pytest

from partimento.lab.measures import measure

RATE = 44100


def sine(seconds=2.0, hertz=1000.0, level=0.5, rate=RATE):
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def clicks(seconds, every, rate=RATE):
    wave = np.zeros(int(seconds * rate), dtype=np.float32)
    burst = np.random.default_rng(0).standard_normal(400) * np.exp(-np.arange(400) / 60)
    for place in range(int(0.1 * rate), len(wave) - 400, int(every * rate)):
        wave[place : place + 400] += 0.5 * burst
    return wave


def test_sine():
    found = measure(sine(), RATE)
    assert found.seconds == 2.0
    assert found.peak_dbfs == pytest.approx(20 * math.log10(0.5), abs=0.01)
    assert found.rms_dbfs == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.01)
    assert found.crest_db == pytest.approx(10 * math.log10(2), abs=0.01)
    # Loudness of a 997 Hz sine at full scale in one channel is -3.01 LUFS (BS.1770).
    assert found.loudness_lufs == pytest.approx(-3.01 - 6.02, abs=0.1)
    assert found.centroid_hz == pytest.approx(1000, abs=15)
    assert found.rolloff_hz == pytest.approx(1000, abs=45)
    assert found.level_range_db == pytest.approx(0, abs=0.1)
    assert found.clipped_share == 0 and found.silent_share == 0
    assert found.dc == pytest.approx(0, abs=1e-6)
    assert found.onsets_per_second == 0  # a measured zero


def test_square_wave_has_no_crest_and_clips_at_full_scale():
    square = np.sign(sine(hertz=100.5)).astype(np.float32)
    found = measure(square, RATE)
    assert found.crest_db == pytest.approx(0, abs=0.01)
    assert found.clipped_share == pytest.approx(1, abs=0.001)
    assert measure(0.98 * square, RATE).clipped_share == 0


def test_silence_is_undefined_and_not_zero():
    found = measure(np.zeros((2, RATE), np.float32), RATE)
    assert found.silent_share == 1 and found.clipped_share == 0 and found.dc == 0
    for name in ("peak_dbfs", "rms_dbfs", "loudness_lufs", "crest_db", "level_range_db", "centroid_hz", "rolloff_hz"):
        assert getattr(found, name) is None, name
    assert found.onsets_per_second is None and found.pulse is None


@pytest.mark.parametrize(("quiet", "share"), [(0.0, 0.5), (10 ** (-70 / 20), 0.5), (10 ** (-50 / 20), 0.0)])
def test_half_silent(quiet, share):
    wave = sine(2.0)
    wave[RATE:] *= quiet
    assert measure(wave, RATE).silent_share == pytest.approx(share, abs=0.03)


def test_offset():
    stereo = np.stack([sine(), sine() - 0.25])
    found = measure(stereo, RATE)
    assert found.channels == 2
    assert found.dc == pytest.approx(0.25, abs=1e-4)


def test_too_short_for_loudness_and_rhythm():
    found = measure(sine(0.2), RATE)
    assert found.loudness_lufs is None and found.onsets_per_second is None and found.pulse is None
    assert found.centroid_hz == pytest.approx(1000, abs=15)
    assert measure(sine()[:1] + 0.5, RATE).peak_dbfs == pytest.approx(-6.02, abs=0.01)


@pytest.mark.parametrize(("every", "noise"), [(0.5, 0.0), (0.25, 0.0), (0.5, 0.01)])
def test_clicks_are_counted_and_steady(every, noise):
    hiss = noise * np.random.default_rng(1).standard_normal(8 * RATE)
    found = measure(clicks(8, every) + hiss, RATE)
    assert found.onsets_per_second == pytest.approx(1 / every, rel=0.1)
    assert found.pulse > 0.85


def test_noise_has_no_onsets_and_no_pulse():
    noise = (0.1 * np.random.default_rng(1).standard_normal(8 * RATE)).astype(np.float32)
    found = measure(noise, RATE)
    assert found.onsets_per_second == 0 and found.pulse < 0.3


def test_level_range_follows_the_music():
    wave = sine(4.0)
    wave[: 2 * RATE] *= 0.1
    assert measure(wave, RATE).level_range_db == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize("wave", [np.zeros((1, 0)), np.array([0.0, np.nan]), np.array([np.inf, 0.0])])
def test_nothing_to_measure(wave):
    with pytest.raises(ValueError):
        measure(wave, RATE)

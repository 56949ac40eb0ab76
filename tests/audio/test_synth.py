"""The band: labels held against estimators that know nothing of how the loops were made."""

from __future__ import annotations

import numpy as np
import pytest

from partimento.audio import synth

RATE = 44100
PITCHES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
# Krumhansl and Kessler (1982): how well each pitch class fits a major and a minor key.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


@pytest.fixture(scope="module")
def loops() -> list[synth.Loop]:
    return [synth.band(5, index) for index in range(24)]


def spectrogram(wave_N: np.ndarray, size: int, hop: int) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave_N, size // 2, mode="wrap"), size)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size)))


def tempo_near(wave_N: np.ndarray, low: float, high: float) -> float:
    """The tempo whose beat, and 2 and 4 of them, the onset strength repeats best."""
    hop = 256
    flux = np.maximum(np.diff(np.log1p(10 * spectrogram(wave_N, 1024, hop)), axis=0), 0).sum(1)
    flux -= np.convolve(np.pad(flux, 20, mode="wrap"), np.ones(41) / 41, "valid")
    power = np.abs(np.fft.rfft(flux)) ** 2
    repeats = np.fft.irfft(power, len(flux))  # a loop is a ring
    tempi = np.arange(low, high, 0.25)
    lags = 60 / tempi[:, None] * RATE / hop * np.array([1, 2, 4])
    return float(tempi[np.interp(lags, np.arange(len(repeats)), repeats).sum(1).argmax()])


def key_of(wave_N: np.ndarray) -> str:
    size = 8192
    strength = np.sqrt(spectrogram(wave_N, size, 2048)).mean(0)
    hz = np.fft.rfftfreq(size, 1 / RATE)
    used = (hz > 60) & (hz < 1600)
    strength = np.maximum(strength - np.convolve(strength, np.ones(31) / 31, "same"), 0)[used]
    classes = np.round(12 * np.log2(hz[used] / 261.6256)).astype(int) % 12
    chroma = np.bincount(classes, strength, 12)
    fits = {
        f"{PITCHES[tonic]} {mode}": np.corrcoef(np.roll(profile, tonic), chroma)[0, 1]
        for mode, profile in PROFILES.items()
        for tonic in range(12)
    }
    return max(fits, key=lambda key: fits[key])


def test_tempo_is_the_label(loops: list[synth.Loop]) -> None:
    drummed = [loop for loop in loops if "drums" in loop.labels.instruments]
    assert len(drummed) >= 12
    # Half an octave either way: which of 64 and 128 "is" the beat no autocorrelation can tell.
    found = [
        (loop.labels.tempo, tempo_near(loop.wave_CN[0], loop.labels.tempo * 0.75, loop.labels.tempo * 1.4))
        for loop in drummed
    ]
    wrong = [(true, heard) for true, heard in found if abs(heard / true - 1) > 0.02]
    assert len(wrong) <= len(found) // 10, wrong


def test_key_is_the_label(loops: list[synth.Loop]) -> None:
    found = [(loop.labels.style, loop.labels.key, key_of(loop.wave_CN[0])) for loop in loops]
    wrong = [row for row in found if row[1] != row[2]]
    assert len(wrong) <= len(found) // 4, wrong

"""What is heard of a sound before anybody judges it: its loud bands over time, where they rise, and its pitches.

Everything is computed from 22,050 Hz mono at unit RMS, so a file's level, rate and channels do not matter.
Shapes: N samples, T frames, M mel bands, G groups of bands, P pitch classes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from partimento.audio import files
from partimento.audio.spectra import mel_filters

Array = NDArray[np.float64]

RATE = 22050
LEAST_SECONDS = 3.0  # in less there are not three beats of a slow song
MOST_SECONDS = 60.0  # of a longer sound the middle is heard
WINDOW, HOP, MELS = 1024, 256, 40
FRAMES_PER_SECOND = RATE / HOP
FLOOR_DB = -70.0  # under the loudest band of the sound
GROUP_HZ = (0.0, 200.0, 1000.0, 4000.0, RATE / 2)
PITCH_WINDOW, PITCH_HOP = 8192, 2048
REGISTER_HZ = (35.0, 160.0, 520.0, 2100.0)  # bass, middle, treble
_BLOCK = 256  # frames that are transformed together
_TUNING_BINS = 16


@dataclass(frozen=True)
class Heard:
    """levels_TM: log-mel levels in dB, 0 is the loudest, never under FLOOR_DB. rise_TG: how much the bands of a group
    rise from one frame to the next (dB, mean over its bands, falls count 0). chroma_RP: share of each pitch class (C is
    0) in the peaks of each register; a register without a peak is 0. chroma_TP: weights of the pitch classes in each
    frame of PITCH_HOP, all registers, not scaled."""

    levels_TM: Array
    rise_TG: Array
    chroma_RP: Array
    chroma_TP: Array


class Unlabelled(ValueError):
    """A sound in which no labels can be heard; the message says why."""


def listen(wave_CN: NDArray[np.floating], sample_rate: int) -> Heard:
    """Raises Unlabelled for fewer than LEAST_SECONDS, for samples that are not finite, and for silence."""
    wave_CN = np.atleast_2d(np.asarray(wave_CN, dtype=np.float32))
    if wave_CN.shape[1] < LEAST_SECONDS * sample_rate:
        raise Unlabelled(f"{wave_CN.shape[1] / sample_rate:.1f} s are too short; {LEAST_SECONDS:g} s are needed")
    if not np.isfinite(wave_CN).all():
        raise Unlabelled("it has samples that are not finite")
    first = max(0, round((wave_CN.shape[1] - MOST_SECONDS * sample_rate) / 2))
    wave_CN = wave_CN[:, first : first + round(MOST_SECONDS * sample_rate)]
    wave_N = files.resample(files.to_mono(wave_CN), sample_rate, RATE)[0].astype(np.float64)
    level = float(np.sqrt(np.mean(wave_N**2)))
    if level < 1e-6:
        raise Unlabelled("it is silent")
    wave_N /= level
    levels_TM = _levels(wave_N)
    return Heard(levels_TM, _rise(levels_TM), *_chroma(wave_N))


def _spectra(wave_N: Array, window: int, hop: int) -> list[Array]:
    """Magnitudes [t, F] in blocks of frames, Hann window."""
    frames = np.lib.stride_tricks.sliding_window_view(wave_N, window)[::hop]
    taper = np.hanning(window)
    return [np.abs(np.fft.rfft(frames[at : at + _BLOCK] * taper)) for at in range(0, len(frames), _BLOCK)]


def _levels(wave_N: Array) -> Array:
    filters_FM = _filters()
    power_TM = np.concatenate([np.square(block) @ filters_FM for block in _spectra(wave_N, WINDOW, HOP)])
    most = power_TM.max()
    return 10 * np.log10(np.maximum(power_TM, most * 10 ** (FLOOR_DB / 10)) / most)


@cache
def _filters() -> Array:
    return mel_filters(RATE, WINDOW, MELS).numpy().T


@cache
def _groups() -> list[NDArray[np.intp]]:
    """The mel bands whose centre lies in each group."""
    centres_M = (_filters() * np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]).sum(0) / _filters().sum(0)
    edges = itertools.pairwise(GROUP_HZ)
    return [np.flatnonzero((centres_M >= low) & (centres_M < high)) for low, high in edges]


def _rise(levels_TM: Array) -> Array:
    rise_TM = np.maximum(np.diff(levels_TM, axis=0, prepend=levels_TM[:1]), 0)
    return np.stack([rise_TM[:, bands].mean(1) for bands in _groups()], 1)


def _chroma(wave_N: Array) -> tuple[Array, Array]:
    """Pitch classes of the spectral peaks, by register and by frame; each at the top of the parabola through its
    logarithms, weighted by the root of its magnitude. The tuning (how far all are from A = 440 Hz) is found first and
    taken off."""
    spectra = _spectra(wave_N, PITCH_WINDOW, PITCH_HOP)
    found = [_peaks(block) for block in spectra]
    frame = np.concatenate([number * _BLOCK + part[0] for number, part in enumerate(found)])
    hertz, weight = (np.concatenate([part[i] for part in found]) for i in (1, 2))
    pitch = 69 + 12 * np.log2(hertz / 440)
    turn = np.angle(np.sum(weight * np.exp(2j * np.pi * pitch))) / (2 * np.pi)
    place = pitch - turn
    near = np.round(place)
    weight = weight * np.exp(-0.5 * ((place - near) / 0.2) ** 2)
    register = np.searchsorted(REGISTER_HZ, hertz) - 1
    pitch_class = near.astype(int) % 12
    chroma_RP = np.bincount(register * 12 + pitch_class, weight, minlength=12 * (len(REGISTER_HZ) - 1)).reshape(-1, 12)
    frames = sum(map(len, spectra))
    chroma_TP = np.bincount(frame * 12 + pitch_class, weight, minlength=12 * frames).reshape(-1, 12)
    total = chroma_RP.sum(1, keepdims=True)
    shares_RP = np.divide(chroma_RP, total, out=np.zeros_like(chroma_RP), where=total > 0)
    return np.asarray(shares_RP), np.asarray(chroma_TP, dtype=np.float64)


def _peaks(magnitude_TF: Array) -> tuple[NDArray[np.intp], Array, Array]:
    """Frames, frequencies (Hz) and weights of the local maxima at most 50 dB under the loudest of their frame."""
    first, last = (int(edge * PITCH_WINDOW / RATE) for edge in (REGISTER_HZ[0], REGISTER_HZ[-1]))
    log_TF = np.log(magnitude_TF[:, first - 1 : last + 2] + 1e-9)
    left, here, right = log_TF[:, :-2], log_TF[:, 1:-1], log_TF[:, 2:]
    loud = here > here.max(1, keepdims=True) - 50 / 8.686
    frame, place = np.nonzero((here > left) & (here >= right) & loud)
    left, here, right = left[frame, place], here[frame, place], right[frame, place]
    shift = 0.5 * (left - right) / np.minimum(left - 2 * here + right, -1e-9)
    hertz = (first + place + shift) * RATE / PITCH_WINDOW
    inside = (hertz > REGISTER_HZ[0]) & (hertz < REGISTER_HZ[-1])
    return frame[inside], hertz[inside], np.exp(0.5 * here[inside])

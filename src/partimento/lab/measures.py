"""Objective measures of a waveform that need no trained weights: levels, spectrum, rhythm.

Every value is a float or None. None means that the measure is undefined for this sound (too short, or silent), and is
shown as such; 0.0 is only ever a measured zero. The closed forms that hold them: a sine has a crest of 3.01 dB, a
square wave of 0 dB, a click every half second 2 onsets a second.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.audio.levels import SILENCE_DB, Wave, frame_levels
from partimento.lab.scores.loudness_range import meter

CLIP_LEVEL = 0.99  # |x| from here on counts as clipped
# An onset rises above so many times the mean rise within half a second, and so much (of the 60 dB range) beyond it:
# white noise and drones then have none, a click in noise has one.
ONSET_RATIO, ONSET_RISE, ONSET_AROUND = 1.8, 0.02, 0.5
PULSE_LAGS = (0.25, 1.5)  # seconds: 240 down to 40 beats a minute
_NOTHING = 1e-6  # of the peak: 120 dB under it
_BLOCK = 4096  # frames transformed at once, so that an hour of audio needs no more memory than a minute


@dataclass(frozen=True)
class Measures:
    """What is measured of one sound; `scores.table` says what each figure is, and its unit."""

    seconds: float
    sample_rate: int
    channels: int
    peak_dbfs: float | None
    rms_dbfs: float | None
    loudness_lufs: float | None
    loudness_range_lu: float | None
    crest_db: float | None
    level_range_db: float | None
    clipped_share: float
    silent_share: float
    dc: float
    centroid_hz: float | None
    bandwidth_hz: float | None
    rolloff_hz: float | None
    onsets_per_second: float | None
    pulse: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(wave_CN: Wave, sample_rate: int) -> Measures:
    """Measure a sound of at least one sample with finite values; float samples, full scale 1.

    The long-term spectrum that centroid, bandwidth and rolloff are of leaves out the offset. Onsets and pulse: see
    `rhythm`. Raises ValueError for an empty or non-finite wave.
    """
    wave_CN = np.atleast_2d(np.asarray(wave_CN, dtype=np.float32))
    if wave_CN.shape[1] == 0 or not np.isfinite(wave_CN).all():
        raise ValueError("an empty or non-finite wave has no measures")
    peak = float(np.abs(wave_CN).max())
    rms = float(np.sqrt(np.mean(np.square(wave_CN, dtype=np.float64))))
    levels = frame_levels(wave_CN, sample_rate)
    silent = levels <= (levels.max() + SILENCE_DB if peak else math.inf)
    centroid = bandwidth = rolloff = onsets = pulse = None
    mono_N = wave_CN.mean(0, dtype=np.float64)
    mono_N = (mono_N - mono_N.mean()).astype(np.float32)
    if np.abs(mono_N).max() > _NOTHING * peak:  # else an offset and its rounding
        power_F, bands_TB, hop = _spectrum(mono_N, sample_rate)
        centroid, bandwidth = _moments(power_F, sample_rate)
        rolloff = _rolloff(power_F, sample_rate)
        onsets, pulse = rhythm(bands_TB, hop / sample_rate)
    heard = meter(wave_CN, sample_rate)
    lufs = heard.loudness
    return Measures(
        seconds=wave_CN.shape[1] / sample_rate,
        sample_rate=sample_rate,
        channels=wave_CN.shape[0],
        peak_dbfs=_db(peak),
        rms_dbfs=_db(rms),
        loudness_lufs=lufs if lufs is not None and math.isfinite(lufs) else None,
        loudness_range_lu=heard.range_lu,
        crest_db=20 * math.log10(peak / rms) if peak else None,
        level_range_db=_level_range(levels[~silent]),
        clipped_share=float(np.mean(np.abs(wave_CN) >= CLIP_LEVEL)),
        silent_share=float(np.mean(silent)),
        dc=float(np.abs(wave_CN.mean(1, dtype=np.float64)).max()),
        centroid_hz=centroid,
        bandwidth_hz=bandwidth,
        rolloff_hz=rolloff,
        onsets_per_second=onsets,
        pulse=pulse,
    )


def rhythm(bands_TB: NDArray[np.float32], hop_seconds: float) -> tuple[float | None, float | None]:
    """(onsets a second, pulse clarity 0..1) from log band levels scaled to 0..1; None when shorter than 1 s and 4 s.

    An onset is a local maximum of the mean rise of the bands that stands out of its surroundings. Pulse clarity is the
    highest normalised autocorrelation of that rise at lags of 0.25 to 1.5 s: near 1 for a metronome, near 0 for noise.
    It says how steady a beat is, not which of its multiples is the tempo.
    """
    seconds = len(bands_TB) * hop_seconds
    if seconds < 1:
        return None, None
    rise_T = np.maximum(np.diff(bands_TB, axis=0), 0).mean(1)
    reach = max(1, round(0.05 / hop_seconds))
    padded = np.pad(rise_T, reach, constant_values=-1)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    usual_T = _moving_mean(rise_T, max(1, round(ONSET_AROUND / hop_seconds)))
    onsets = np.flatnonzero((rise_T >= around.max(1)) & (rise_T > ONSET_RATIO * usual_T + ONSET_RISE))
    # A plateau is one onset.
    count = int((np.diff(onsets, prepend=-reach - 1) > reach).sum())
    return count / seconds, _pulse(rise_T, hop_seconds) if seconds >= 4 else None


def _moving_mean(values: NDArray[np.float32], reach: int) -> NDArray[np.float64]:
    """Mean of the values at most `reach` places away (fewer at the ends)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    place = np.arange(len(values))
    first, last = np.maximum(place - reach, 0), np.minimum(place + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _pulse(rise_T: NDArray[np.float32], hop_seconds: float) -> float | None:
    centred = rise_T.astype(np.float64) - rise_T.mean()
    energy = float(np.square(centred).mean())
    if energy < 1e-10:
        return None  # nothing rises or falls, so there is nothing to be steady
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    correlation = np.fft.irfft(np.square(np.abs(spectrum)))[: len(centred)] / np.arange(len(centred), 0, -1) / energy
    first, last = (round(lag / hop_seconds) for lag in PULSE_LAGS)
    return float(np.clip(correlation[first : last + 1].max(), 0, 1))


def _level_range(levels: NDArray[np.float64]) -> float | None:
    if len(levels) < 10:
        return None
    low, high = np.percentile(levels, [10, 95])
    return float(high - low)


def _spectrum(wave_N: NDArray[np.float32], sample_rate: int) -> tuple[Any, NDArray[np.float32], int]:
    """Long-term power spectrum [F], and the levels of 40 log-spaced bands over time, 60 dB mapped to 0..1, with hop."""
    size = 2 ** max(5, round(math.log2(0.046 * sample_rate)))
    hop = size // 4
    if len(wave_N) < size:
        wave_N = np.pad(wave_N, (0, size - len(wave_N)))
    frames = np.lib.stride_tricks.sliding_window_view(wave_N, size)[::hop]
    window = np.hanning(size).astype(np.float32)
    edges = np.unique(np.round(np.geomspace(2, size // 2, 41)).astype(int))
    power_F = np.zeros(size // 2 + 1)
    bands = []
    for start in range(0, len(frames), _BLOCK):
        block = np.square(np.abs(np.fft.rfft(frames[start : start + _BLOCK] * window)))
        power_F += block.sum(0)
        bands.append(np.add.reduceat(block, edges[:-1], axis=1).astype(np.float32))
    bands_TB = np.concatenate(bands)
    floor = bands_TB.max() * 10 ** (SILENCE_DB / 10)
    if not floor:
        return power_F, np.zeros_like(bands_TB), hop
    return power_F, (10 * np.log10(np.maximum(bands_TB, floor) / floor) / -SILENCE_DB).astype(np.float32), hop


def _moments(power_F: Any, sample_rate: int) -> tuple[float | None, float | None]:
    """Mean and standard deviation of frequency by power; the offset (bin 0) is no pitch."""
    hertz, weight = np.linspace(0, sample_rate / 2, len(power_F))[1:], power_F[1:]
    total = weight.sum()
    if not total:
        return None, None
    mean = float((weight * hertz).sum() / total)
    return mean, math.sqrt(float((weight * np.square(hertz - mean)).sum() / total))


def _rolloff(power_F: Any, sample_rate: int) -> float | None:
    below = np.cumsum(power_F[1:])
    if not below[-1]:
        return None
    return float(np.searchsorted(below, 0.85 * below[-1]) + 1) * sample_rate / 2 / (len(power_F) - 1)


def _db(value: float) -> float | None:
    return 20 * math.log10(value) if value > 0 else None

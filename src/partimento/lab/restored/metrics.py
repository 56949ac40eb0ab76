"""How far a made wave is from its target: figures that hear phase, after alignment, and figures that do not.

A figure is a float or None. None is a figure that is undefined for this pair (a silent target has no ratio to it, a
rate too low no band there); it is counted and never taken for a zero. Waves are [C, N]; a figure is the mean over the
channels in which it is defined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.audio import spectra
from partimento.waveform.losses import distances

MAX_LAG_SECONDS = 0.02  # more than that is no delay that one would overlook
SILENT = 1e-5  # largest |sample| up to which a wave is silent: -100 dB of full scale
CEILING_DB = 100.0  # of ratios in decibels: what is equal has no finite one
FLOOR_DB = -100.0  # of a bin of a spectrum in which a full-scale sine has 0 dB
WINDOW, HOP = 2048, 512
OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
HIGH_HZ = 8000.0

Wave = NDArray[np.floating[Any]]
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Metric:
    """What a figure is called, in which direction it is better, and how it is made."""

    name: str
    title: str
    unit: str
    better: Literal["lower", "higher"]
    hears_phase: bool
    formula: str


METRICS = (
    Metric(
        "mel7", "7-scale mel distance", "", "lower", False,
        "sum over windows 32 to 2048 of the mean |difference of log10 mel magnitudes| (audio.spectra.mel7; DAC)",
    ),
    Metric(
        "stft", "STFT distance", "", "lower", False,
        "log and linear magnitudes at windows 2048 and 512 (waveform.losses; DAC)",
    ),
    Metric(
        "lsd", "Log-spectral distance", "dB", "lower", False,
        "per frame the rms over bins of 10 log10(P_made / P_target), mean over frames; window 2048, hop 512, bins not "
        "under -100 dB (Gray and Markel 1976; as in the evaluation of AP-BWE)",
    ),
    Metric(
        "lsd_high", "Log-spectral distance above 8 kHz", "dB", "lower", False, "lsd of the bins from 8 kHz on",
    ),
    Metric(
        "convergence", "Spectral convergence", "", "lower", False,
        "||  |S_target| - |S_made|  || / || S_target ||, Frobenius norms of the same spectra (Arik et al. 2018)",
    ),
    Metric(
        "si_sdr", "SI-SDR", "dB", "higher", True,
        "10 log10(||a t||^2 / ||m - a t||^2), a = <m, t> / ||t||^2, means removed, once aligned (Le Roux et al. 2019)",
    ),
    Metric("snr", "SNR", "dB", "higher", True, "10 log10(||t||^2 / ||m - t||^2), after alignment"),
    Metric("l1", "Mean absolute error", "", "lower", True, "mean |m - t|, after alignment"),
)  # fmt: skip
BANDS = tuple(f"lsd_{hertz}" for hertz in OCTAVES)
"""Log-spectral distance of the octave around each of OCTAVES (from 1 / sqrt 2 to sqrt 2 times it)."""
BAND_METRICS = tuple(
    Metric(name, f"Log-spectral distance, octave at {hertz:,} Hz", "dB", "lower", False, "lsd of this octave's bins")
    for name, hertz in zip(BANDS, OCTAVES, strict=True)
)
BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class Compared:
    """Figures of one pair; `lag` is how many samples the made wave came late (before 0: early)."""

    figures: Figures
    lag: int


def compare(made_CN: Wave, target_CN: Wave, sample_rate: int, max_lag_seconds: float = MAX_LAG_SECONDS) -> Compared:
    """All figures of METRICS and BANDS of a pair of equal shape.

    Figures that hear phase are of the overlap that is left after the lag is taken out. Raises ValueError for shapes
    that differ, no samples, and samples that are not finite.
    """
    made_CN, target_CN = (np.atleast_2d(np.asarray(wave, np.float64)) for wave in (made_CN, target_CN))
    if made_CN.shape != target_CN.shape or made_CN.size == 0:
        raise ValueError(f"figures are of two equal shapes with samples: {made_CN.shape}, {target_CN.shape}")
    if not np.isfinite(made_CN).all() or not np.isfinite(target_CN).all():
        raise ValueError("a sample is not finite")
    found = lag(made_CN, target_CN, round(max_lag_seconds * sample_rate))
    channels = [_channel(*pair, found, sample_rate) for pair in zip(made_CN, target_CN, strict=True)]
    return Compared({name: _mean([one[name] for one in channels]) for name in channels[0]}, found)


def best(target_CN: Wave, sample_rate: int) -> Figures:
    """What `compare(target, target)` gives, without the work."""
    silent = is_silent(target_CN)
    flat = silent or is_silent(target_CN - np.mean(target_CN, axis=-1, keepdims=True))
    found: Figures = {}
    for name in (*BY_NAME, *BANDS):
        found[name] = None if silent and name not in ("mel7", "stft", "l1") else 0.0
    for name, low, high in _bands():
        if not _within(low, high, sample_rate):
            found[name] = None
    found["snr"] = None if silent else CEILING_DB
    found["si_sdr"] = None if flat else CEILING_DB
    return found


def lag(made_CN: Wave, target_CN: Wave, most: int) -> int:
    """By how many samples, at most `most` either way, `made` is late: where the normalised cross-correlation of the
    overlap, summed over channels, is highest. The smallest of equal ones; 0 if either is silent."""
    made_CN, target_CN = (np.atleast_2d(np.asarray(wave, np.float64)) for wave in (made_CN, target_CN))
    N = made_CN.shape[1]
    most = min(most, N - 1)
    if is_silent(made_CN) or is_silent(target_CN) or most == 0:
        return 0
    size = 2 ** math.ceil(math.log2(N + most + 1))
    product = (np.fft.rfft(made_CN, size) * np.fft.rfft(target_CN, size).conj()).sum(0)
    circular = np.fft.irfft(product, size)
    lags = np.arange(-most, most + 1)
    # Energies of the parts that overlap at each lag: made[lag:] with target[:N - lag], or the other way.
    made, target = (np.concatenate([[0.0], np.cumsum(np.square(wave).sum(0))]) for wave in (made_CN, target_CN))
    late, early = np.maximum(lags, 0), np.maximum(-lags, 0)
    energy = (made[N - early] - made[late]) * (target[N - late] - target[early])
    alike = np.full(len(lags), -1.0)
    np.divide(circular[lags], np.sqrt(np.maximum(energy, 0)), out=alike, where=energy > 1e-20)
    best = np.flatnonzero(alike >= alike.max() - 1e-9)
    return int(lags[best[np.argmin(np.abs(lags[best]))]])


def aligned(made_CN: Wave, target_CN: Wave, late: int) -> tuple[Wave, Wave]:
    """The parts of both that belong together once `made` comes `late` samples earlier."""
    N = made_CN.shape[-1]
    if late >= 0:
        return made_CN[..., late:], target_CN[..., : N - late]
    return made_CN[..., : N + late], target_CN[..., -late:]


def is_silent(wave: Wave) -> bool:
    return float(np.abs(wave).max(initial=0.0)) <= SILENT


def decibels(signal: float, error: float) -> float:
    """10 log10 of a ratio of energies, within -+CEILING_DB."""
    if error <= 0:
        return CEILING_DB if signal > 0 else -CEILING_DB
    if signal <= 0:
        return -CEILING_DB
    return float(np.clip(10 * math.log10(signal / error), -CEILING_DB, CEILING_DB))


def _channel(made_N: Wave, target_N: Wave, late: int, sample_rate: int) -> Figures:
    made_1N, target_1N = (torch.from_numpy(np.ascontiguousarray(wave))[None] for wave in (made_N, target_N))
    single = made_1N.float(), target_1N.float()
    found: Figures = {
        "mel7": float(spectra.mel7(*single, sample_rate)),
        "stft": float(distances(*single, sample_rate, ("stft",))["stft"]),
    }
    found |= _spectral(*single, sample_rate)
    made_N, target_N = aligned(made_N, target_N, late)
    error = float(np.square(made_N - target_N).sum())
    found["si_sdr"] = found["snr"] = None
    if not is_silent(target_N):
        found["si_sdr"] = _si_sdr(made_N, target_N)
        found["snr"] = decibels(float(np.square(target_N).sum()), error)
    found["l1"] = float(np.abs(made_N - target_N).mean())
    return found


def _si_sdr(made_N: Wave, target_N: Wave) -> float | None:
    """`spectra.si_sdr` in float64 within -+CEILING_DB; None where the target is nothing but an offset."""
    if is_silent(target_N - target_N.mean()):
        return None
    if is_silent(made_N - made_N.mean()):
        return -CEILING_DB
    value = float(spectra.si_sdr(*(torch.from_numpy(np.ascontiguousarray(wave))[None] for wave in (made_N, target_N))))
    return float(np.clip(value, -CEILING_DB, CEILING_DB))


def _spectral(made_1N: Tensor, target_1N: Tensor, sample_rate: int) -> Figures:
    """Log-spectral distances and spectral convergence."""
    if is_silent(target_1N.numpy()):
        return dict.fromkeys([*(name for name, _, _ in _bands()), "convergence"])
    scale = 4 / WINDOW  # the window's sum is WINDOW / 2, and a sine has half its amplitude in a bin
    made_FT, target_FT = (spectra.stft(wave, WINDOW, HOP)[0].abs() * scale for wave in (made_1N, target_1N))
    floor = 10 ** (FLOOR_DB / 20)
    squared_FT = (20 * (made_FT.clamp(min=floor).log10() - target_FT.clamp(min=floor).log10())).square()
    hertz_F = torch.linspace(0, sample_rate / 2, WINDOW // 2 + 1)
    found: Figures = {}
    for name, low, high in _bands():
        inside_F = (hertz_F >= low) & (hertz_F < high)
        within = _within(low, high, sample_rate)
        found[name] = float(squared_FT[inside_F].mean(0).sqrt().mean()) if within else None
    found["convergence"] = float((target_FT - made_FT).norm() / target_FT.norm())
    return found


def _bands() -> Iterator[tuple[str, float, float]]:
    """(name, from, to) in Hz of what is a log-spectral distance."""
    yield "lsd", 0.0, math.inf
    yield "lsd_high", HIGH_HZ, math.inf
    for name, hertz in zip(BANDS, OCTAVES, strict=True):
        yield name, hertz / math.sqrt(2), hertz * math.sqrt(2)


def _within(low: float, high: float, sample_rate: int) -> bool:
    """Whether a band is there at this rate; of the octave at 16 kHz, 2.5 % may be missing, as at 44.1 kHz."""
    return low < sample_rate / 2 and (high == math.inf or high <= 1.03 * sample_rate / 2)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

"""Standing lines: tones that a network adds wherever there is sound, e.g. at the multiples of rate / stride.

Odena et al., "Deconvolution and checkerboard artifacts" (Distill 2016), for where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WINDOW = 8192  # bins of 5.4 Hz at 44.1 kHz
AROUND = 9  # bins each side whose median is the surroundings
APART = 2  # bins by which a partial may lie beside that of the target
LEAST_FRAMES = 8
FLOOR_DB = -110.0  # a full-scale sine has 0
SOUNDING_DB = -60.0  # frames of the target softer than this, under its loudest, tell nothing
MOST_RATIO = 10  # multiples closer than so many bins are met by chance


@dataclass(frozen=True)
class Line:
    """The highest line: `excess` dB over its surroundings at `hertz`; `strides` of those asked about whose multiples of
    rate / stride it lies on."""

    excess: float
    hertz: float
    strides: tuple[int, ...]


def highest(made_N: Array, target_N: Array, sample_rate: int, strides: Sequence[int] = ()) -> Line | None:
    """The bin of `made` that stands highest over its surroundings without the target's doing.

    Long-term spectra are the medians over the frames in which the target sounds: what stands longer than half of the
    time. The target's own excess, and what `made` is louder than it (both the highest within 2 bins), limit what
    counts, so that a tone of the target is no line, nor is one that is only less blurred. None for fewer than 8 such
    frames.
    """
    spectra = _long_term(made_N, target_N)
    if spectra is None:
        return None
    made_F, target_F = spectra
    wide_F = _widest(target_F)
    above_F = made_F - _surroundings(made_F)
    own_F = _widest(target_F - _surroundings(target_F))
    counts_F = np.minimum(above_F, np.minimum(above_F - np.maximum(own_F, 0) + 3, made_F - wide_F))
    counts_F[:3] = counts_F[-3:] = 0  # the offset, and the last bins
    place = int(np.argmax(counts_F))
    spacing = {stride: WINDOW / stride for stride in strides}
    on = tuple(
        stride
        for stride, bins in sorted(spacing.items())
        if bins >= MOST_RATIO and abs(place - round(place / bins) * bins) <= 1
    )
    return Line(float(counts_F[place]), place * sample_rate / WINDOW, on)


def _long_term(made_N: Array, target_N: Array) -> tuple[Array, Array] | None:
    """Median levels in dB [WINDOW // 2 + 1] over the frames in which the target sounds."""
    if len(target_N) < WINDOW:
        return None
    taper = np.hanning(WINDOW)
    frames = [
        np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[:: WINDOW // 4] * taper for wave in (made_N, target_N)
    ]
    energy_T = np.square(frames[1]).mean(1)
    sounds_T = energy_T > energy_T.max() * 10 ** (SOUNDING_DB / 10)
    if sounds_T.sum() < LEAST_FRAMES:
        return None
    power = [np.square(np.abs(np.fft.rfft(part[sounds_T])) * 4 / WINDOW) for part in frames]
    floor = 10 ** (FLOOR_DB / 10)
    levels: list[Any] = [10 * np.log10(np.maximum(np.median(part, axis=0), floor)) for part in power]
    return levels[0], levels[1]


def _surroundings(levels_F: Array) -> Array:
    padded = np.pad(levels_F, AROUND, mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1)
    return np.asarray(np.median(around, axis=1))


def _widest(levels_F: Array) -> Array:
    padded = np.pad(levels_F, APART, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * APART + 1).max(1)

"""Levels of a waveform in short frames, and silence: the one place where both are defined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.05
SILENCE_DB = -60.0

Wave = NDArray[np.floating[Any]]


def frame_levels(wave_CN: Wave, sample_rate: int) -> NDArray[np.float64]:
    """RMS level of each 50 ms frame (the last, shorter one counts) in dB of full scale: 0 is a mean square of 1, over
    all channels; -inf is digital silence."""
    wave_CN = np.atleast_2d(wave_CN)
    size = max(1, round(FRAME_SECONDS * sample_rate))
    edges = np.arange(0, wave_CN.shape[1], size)
    sums = np.add.reduceat(np.square(wave_CN, dtype=np.float64).mean(0), edges)
    counts = np.diff(np.append(edges, wave_CN.shape[1]))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(sums / counts)


def silent_share(wave_CN: Wave, sample_rate: int) -> float:
    """Share of the 50 ms frames that lie more than 60 dB below full scale. Raises ValueError for a wave without samples
    or with one that is not finite, for which there is no share."""
    if np.size(wave_CN) == 0 or not np.isfinite(wave_CN).all():
        raise ValueError("an empty or non-finite wave has no levels")
    return float(np.mean(frame_levels(wave_CN, sample_rate) < SILENCE_DB))

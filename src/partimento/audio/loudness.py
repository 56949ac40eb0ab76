"""How loud a recording is: integrated loudness (ITU-R BS.1770-4, by pyloudnorm) and sample peak."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SHORTEST = 0.4  # seconds: one gating block of the standard


def loudness(wave_CN: NDArray[np.floating], sample_rate: int) -> float | None:
    """Integrated loudness in LUFS of [C, N] with 1 to 5 channels (L R C Ls Rs); the channels' powers add up.

    None where the recording is shorter than 0.4 s, since the standard has no block for it; -inf on silence (below the
    absolute gate of -70 LUFS). Raises ValueError on more than 5 channels, for which the standard has no weights.
    """
    if wave_CN.shape[1] < SHORTEST * sample_rate:
        return None
    if wave_CN.shape[0] > 5:
        raise ValueError(f"loudness is defined for 1 to 5 channels, not {wave_CN.shape[0]}")
    import pyloudnorm  # brings scipy, which takes long to import

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(pyloudnorm.Meter(sample_rate).integrated_loudness(np.asarray(wave_CN, np.float64).T))
    return -math.inf if math.isnan(value) else value


def peak_dbfs(wave_CN: NDArray[np.floating]) -> float:
    """The largest |sample| in dB relative to full scale 1.0; -inf on silence or no samples."""
    peak = float(np.max(np.abs(wave_CN), initial=0.0))
    return 20 * math.log10(peak) if peak > 0 else -math.inf

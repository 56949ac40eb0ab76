"""Loudness range (EBU Tech 3342): how much the short-term loudness of a recording moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.audio.loudness import ABSOLUTE_GATE, Meter

WINDOW = 30  # steps of a tenth of a second: 3 s
RELATIVE_GATE = -20.0  # LU under the mean power of what passes the absolute gate
LOW, HIGH = 10, 95  # percentiles
_OFFSET = -0.691  # dB, as in BS.1770


class RangeMeter(Meter):
    """A `Meter` that also tells the range of the recording that it was given."""

    @property
    def range_lu(self) -> float | None:
        """LU between the percentiles of the loudness of windows of 3 s every 0.1 s, after both gates; None where there
        is no window (under 3 s, more than 5 channels) or none that is heard."""
        steps = np.concatenate(self._powers) if self._powers else np.zeros(0)
        if len(steps) < WINDOW:
            return None
        sums = np.concatenate([[0.0], np.cumsum(steps)])
        powers = np.maximum(sums[WINDOW:] - sums[:-WINDOW], 0) / (WINDOW * self._rate / 10)
        powers = powers[powers > _power(ABSOLUTE_GATE)]
        if not len(powers):
            return None
        powers = powers[powers > powers.mean() * 10 ** (RELATIVE_GATE / 10)]
        low, high = np.percentile(10 * np.log10(powers), [LOW, HIGH])
        return float(high - low)


def meter(wave_CN: NDArray[np.floating], sample_rate: int) -> RangeMeter:
    """One that has heard all of [C, N]."""
    found = RangeMeter(wave_CN.shape[0], sample_rate)
    found.add(wave_CN)
    return found


def _power(lufs: float) -> float:
    return float(10.0 ** ((lufs - _OFFSET) / 10))

"""How loud a recording is: integrated loudness (ITU-R BS.1770-4) and sample peak, of a stream or of a whole."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SHORTEST = 0.4  # seconds: one gating block of the standard
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS; LU below the mean of what passes the first
_OFFSET = -0.691  # dB: a 997 Hz sine reads what the standard says
_WEIGHTS = np.array([1.0, 1.0, 1.0, 1.41, 1.41])  # L R C Ls Rs
_STEPS = 10  # a second: blocks of 400 ms overlap by 75 %


class Meter:
    """Takes a recording block by block and keeps ten numbers a second of it.

    `loudness` is None where the recording is shorter than 0.4 s, since the standard has no block for it, or has more
    than 5 channels, for which it has no weights; -inf on silence (below the absolute gate of -70 LUFS).
    """

    def __init__(self, channels: int, sample_rate: int) -> None:
        self._channels = channels
        self._rate = sample_rate
        self._peak = 0.0
        self._filter = _k_weighting(sample_rate)
        self._state = np.zeros((len(self._filter), channels, 2))
        self._open_CN = np.zeros((channels, 0))  # filtered, not yet a whole step
        self._steps = 0
        self._powers: list[NDArray[np.float64]] = []  # [steps] each: weighted power, summed over the step's samples

    def add(self, block_CN: NDArray[np.floating]) -> None:
        if not block_CN.shape[1]:
            return
        self._peak = max(self._peak, float(np.max(np.abs(block_CN))))
        if self._channels > len(_WEIGHTS):
            return
        from scipy.signal import sosfilt  # takes long to import

        filtered_CN, self._state = sosfilt(self._filter, block_CN.astype(np.float64), axis=1, zi=self._state)
        open_CN = np.concatenate([self._open_CN, filtered_CN], axis=1)
        # In whole steps, so that the sums do not depend on how the recording was cut.
        begin = self._steps * self._rate // _STEPS
        end = (
            (begin + open_CN.shape[1] + 1) * _STEPS - 1
        ) // self._rate  # the last step with (end * rate // 10) inside
        edges = np.arange(self._steps, end + 1) * self._rate // _STEPS - begin
        if len(edges) > 1:
            powers_N = _WEIGHTS[: self._channels] @ np.square(open_CN[:, : edges[-1]])
            self._powers.append(np.add.reduceat(powers_N, edges[:-1]))
            self._steps = end
        self._open_CN = open_CN[:, edges[-1] :]

    @property
    def peak_dbfs(self) -> float:
        """The largest |sample| in dB relative to full scale 1.0; -inf on silence or no samples."""
        return 20 * math.log10(self._peak) if self._peak > 0 else -math.inf

    @property
    def loudness(self) -> float | None:
        """Integrated loudness in LUFS; the channels' powers add up."""
        steps = np.concatenate(self._powers) if self._powers else np.zeros(0)
        if len(steps) < 4 or self._channels > len(_WEIGHTS):
            return None
        powers = np.convolve(steps, np.ones(4), "valid") / (SHORTEST * self._rate)  # of each gating block
        powers = powers[powers > _power(ABSOLUTE_GATE)]
        if not len(powers):
            return -math.inf
        powers = powers[powers > powers.mean() * 10 ** (RELATIVE_GATE / 10)]
        return _OFFSET + 10 * math.log10(powers.mean())


def loudness(wave_CN: NDArray[np.floating], sample_rate: int) -> float | None:
    """Integrated loudness in LUFS of [C, N], as `Meter`. Raises ValueError on more than 5 channels."""
    if wave_CN.shape[0] > len(_WEIGHTS):
        raise ValueError(f"loudness is defined for 1 to 5 channels, not {wave_CN.shape[0]}")
    meter = Meter(wave_CN.shape[0], sample_rate)
    meter.add(wave_CN)
    return meter.loudness


def peak_dbfs(wave_CN: NDArray[np.floating]) -> float:
    """The largest |sample| in dB relative to full scale 1.0; -inf on silence or no samples."""
    peak = float(np.max(np.abs(wave_CN), initial=0.0))
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def _power(lufs: float) -> float:
    return 10.0 ** ((lufs - _OFFSET) / 10)


def _k_weighting(rate: int) -> NDArray[np.float64]:
    """The two filters of the standard at any rate, as sections [2, 6].

    The standard has coefficients for 48 kHz only; these are of the same curves, a high shelf of +4 dB at 1500 Hz and a
    high pass at 38 Hz, by R. Bristow-Johnson's "Cookbook formulae for audio EQ biquad filter coefficients".
    """
    A = 10 ** (4.0 / 40)
    w = 2 * math.pi * 1500.0 / rate
    cos, alpha = math.cos(w), math.sin(w) / math.sqrt(2)
    root = 2 * math.sqrt(A) * alpha
    shelf = [
        A * ((A + 1) + (A - 1) * cos + root),
        -2 * A * ((A - 1) + (A + 1) * cos),
        A * ((A + 1) + (A - 1) * cos - root),
        (A + 1) - (A - 1) * cos + root,
        2 * ((A - 1) - (A + 1) * cos),
        (A + 1) - (A - 1) * cos - root,
    ]
    w = 2 * math.pi * 38.0 / rate
    cos, alpha = math.cos(w), math.sin(w)
    high_pass = [(1 + cos) / 2, -(1 + cos), (1 + cos) / 2, 1 + alpha, -2 * cos, 1 - alpha]
    sections = np.array([shelf, high_pass])
    return sections / sections[:, 3:4]

"""Combs: an error that is periodic with the stride of a network, as upsampling by zeros or uneven kernels makes it.

Such an error either is periodic itself (lines at the multiples of rate / stride in its spectrum), or noise whose energy
is (lines there in the spectrum of its square: its cyclic spectrum, Gardner, IEEE Signal Processing Magazine 1991).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_LINES = 16
NEAR, FAR = 4, 40  # bins that are a line's neighbours, on each side
LOWEST_HZ = 20.0
LEAST_LINES_DB = 12.0  # what a single line must show more than many (divided by the root of their number)


@dataclass(frozen=True)
class Comb:
    """The stride whose lines stand highest: by `excess` dB, their mean over their neighbours."""

    excess: float
    stride: int


def strongest(error_N: Array, sample_rate: int, strides: Sequence[int]) -> Comb | None:
    """The strongest comb at the multiples of rate / stride, over the strides given; None without strides or error.

    The mean over up to 16 multiples of 10 log10(power of the bin / mean of its neighbours), less 12 dB / sqrt(their
    number), which is what few of them reach by chance: in the spectrum of the error and in that of its square.
    """
    found = [
        Comb(excess, stride)
        for stride in sorted({stride for stride in strides if stride >= 2})
        for signal_N in (error_N, np.square(error_N))
        if (excess := _excess(signal_N, sample_rate, stride)) is not None
    ]
    return max(found, key=lambda comb: comb.excess, default=None)


def _excess(signal_N: Array, sample_rate: int, stride: int) -> float | None:
    # A multiple of the stride, so that every line of the comb is a bin; two strides more or less are no loss.
    N = len(signal_N) // stride * stride
    if 2 * stride * FAR > N or not signal_N.any():
        return None
    signal_N = signal_N[:N] - signal_N[:N].mean()
    power_F: Any = np.square(np.abs(np.fft.rfft(signal_N * np.hanning(N))))
    first = max(1, math.ceil(LOWEST_HZ * stride / sample_rate))
    lines = np.arange(first, stride // 2 + 1)[:MOST_LINES] * (N // stride)
    lines = lines[lines < len(power_F)]
    if not len(lines):
        return None
    heights = []
    for line in lines:
        around = np.r_[line - FAR : line - NEAR, line + NEAR + 1 : line + FAR + 1]
        around = around[(around > 0) & (around < len(power_F))]
        heights.append(10 * math.log10(max(power_F[line], 1e-30) / max(float(power_F[around].mean()), 1e-30)))
    return float(np.mean(heights)) - LEAST_LINES_DB / math.sqrt(len(heights))

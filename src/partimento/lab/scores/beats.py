"""Where the beats of a sound lie, given their tempo, and how even they are."""

from __future__ import annotations

import numpy as np

from partimento.lab.labels.features import FRAMES_PER_SECOND, Array
from partimento.lab.labels.tempo import smooth

TIGHTNESS = 100.0  # what a beat off by a factor r costs, ln(r)^2 of it, in standard deviations of the onset strength
FEWEST = 5  # beats, for an evenness of four intervals


def track(strength_T: Array, bpm: float) -> Array:
    """Times (s) of the beats: the chain of onsets that is strongest and most even (dynamic programming, Ellis 2007,
    "Beat tracking by dynamic programming"). Empty where nothing rises.

    `strength_T`: onset strength at labels.features.FRAMES_PER_SECOND. A beat's time is the top of the parabola through
    its frame and its neighbours.
    """
    deviation = strength_T.std()
    if deviation < 1e-9:
        return np.zeros(0)
    onset_T = smooth(strength_T / deviation)
    period = 60 * FRAMES_PER_SECOND / bpm
    lag_L = np.arange(round(period / 2), round(2 * period) + 1)
    cost_L = -TIGHTNESS * np.square(np.log(lag_L / period))
    padded = np.concatenate([np.full(lag_L[-1], 0.0), np.zeros(len(onset_T))])  # before the beginning all is free
    before_T = np.full(len(onset_T), -1)
    for frame in range(len(onset_T)):
        place_L = frame + lag_L[-1] - lag_L
        chain_L = padded[place_L] + cost_L
        best = int(chain_L.argmax())
        if frame >= lag_L[best] and chain_L[best] > 0:
            before_T[frame] = frame - lag_L[best]
        padded[frame + lag_L[-1]] = onset_T[frame] + max(0.0, chain_L[best])
    total_T = padded[lag_L[-1] :]
    last = len(total_T) - min(len(total_T), round(period)) + int(total_T[-round(period) :].argmax())
    beats = [last]
    while before_T[beats[-1]] >= 0:
        beats.append(int(before_T[beats[-1]]))
    found = _trimmed(np.array(beats[::-1]), onset_T)
    return (found + _summit(onset_T, found)) / FRAMES_PER_SECOND


def stability(beats: Array) -> float | None:
    """1 - deviation / mean of the intervals, at least 0; None for fewer than FEWEST beats."""
    if len(beats) < FEWEST:
        return None
    intervals = np.diff(beats)
    return max(0.0, 1 - float(intervals.std() / intervals.mean()))


def _trimmed(beats: Array, onset_T: Array) -> Array:
    """Without the first and last beats that fall on no onset: there the chain goes on over nothing."""
    strong = np.flatnonzero(onset_T[beats] > 0.5 * np.sqrt(np.mean(np.square(onset_T[beats]))))
    return beats[strong[0] : strong[-1] + 1] if len(strong) else beats[:0]


def _summit(onset_T: Array, beats: Array) -> Array:
    """How far (-0.5..0.5 frames) the maximum lies from each beat that is a local one."""
    inside = np.clip(beats, 1, len(onset_T) - 2)
    left, here, right = onset_T[inside - 1], onset_T[inside], onset_T[inside + 1]
    bend = left - 2 * here + right
    is_top = (inside == beats) & (here >= left) & (here >= right) & (bend < 0)
    return np.where(is_top, 0.5 * (left - right) / np.where(is_top, bend, 1.0), 0.0)

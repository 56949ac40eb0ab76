"""Style: what is loud, how much it moves, and how soon the rises of each group of bands return."""

from __future__ import annotations

import numpy as np

from partimento.lab.labels.features import FRAMES_PER_SECOND, Array, Heard
from partimento.lab.labels.tempo import autocorrelation, smooth

_LAGS = np.geomspace(0.1, 2.0, 30) * FRAMES_PER_SECOND


def features(heard: Heard) -> Array:
    """[F]: mean, deviation and mean rise of each mel band; the autocorrelations of the groups' rises at 0.1 to 2 s."""
    levels_TM = heard.levels_TM
    rhythm = [autocorrelation(smooth(rise_T)) for rise_T in heard.rise_TG.T]
    return np.concatenate(
        [
            levels_TM.mean(0),
            levels_TM.std(0),
            np.maximum(np.diff(levels_TM, axis=0), 0).mean(0),
            *(np.interp(_LAGS, np.arange(len(correlation)), correlation) for correlation in rhythm),
        ]
    )

"""Tempo: how well the rises of a sound return after every multiple and fraction of a beat, for each beat that could be.

The autocorrelation of the onset strength (Ellis 2007, "Beat tracking by dynamic programming") is read at musical ratios
of a candidate's beat, in four groups of bands and their sum. One weight a ratio and group, the same for all candidates,
then says which metrical level is the beat: a template that knows no tempo. A smooth prior over tempi, which may lean on
how many onsets there are, is fitted with it.
"""

from __future__ import annotations

import numpy as np

from partimento.lab.labels.features import FRAMES_PER_SECOND, Array, Heard

BPM_C = np.exp(np.arange(np.log(50), np.log(200), 0.01))  # candidates, 1 % apart
RATIOS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1, 4 / 3, 3 / 2, 2, 3, 4, 6, 8)
_PRIOR_CENTRES = np.linspace(np.log(55), np.log(190), 7)
_PRIOR_WIDTH = 0.18
_LEAST_OVERLAP = 1.0  # seconds that two shifted copies share at least; correlations over less are left at 0
SURE_WITHIN = 0.04  # of the tempo: what `confidence` counts as the same answer
_REFINED = 3  # candidates on either side that the answer is averaged over


def features(heard: Heard) -> Array:
    """[C, F] of the candidates BPM_C."""
    beat_C = 60 / BPM_C * FRAMES_PER_SECOND
    all_T = heard.rise_TG.sum(1)
    columns = []
    for strength_T in (*heard.rise_TG.T, all_T):
        correlation = autocorrelation(smooth(strength_T))
        longest = len(correlation) - _LEAST_OVERLAP * FRAMES_PER_SECOND
        for ratio in RATIOS:
            lag_C = ratio * beat_C
            value_C = np.interp(lag_C, np.arange(len(correlation)), correlation)
            columns.append(np.where(lag_C > longest, 0.0, value_C))
    prior_CR = np.exp(-0.5 * ((np.log(BPM_C)[:, None] - _PRIOR_CENTRES) / _PRIOR_WIDTH) ** 2)
    return np.concatenate([np.stack(columns, 1), prior_CR, prior_CR * _log_onset_rate(all_T)], 1)


def pick(features_CF: Array, weights_F: Array) -> float:
    """The likeliest candidate in beats per minute, refined by its neighbours."""
    score_C = features_CF @ weights_F
    best = int(score_C.argmax())
    near = slice(max(0, best - _REFINED), best + _REFINED + 1)
    share = np.exp(score_C[near] - score_C[best])
    return float(np.exp((share * np.log(BPM_C[near])).sum() / share.sum()))


def confidence(features_CF: Array, weights_F: Array) -> float:
    """Probability of the candidates within 4 % of the likeliest: the weights are those of a conditional logit."""
    score_C = features_CF @ weights_F
    share_C = np.exp(score_C - score_C.max())
    near_C = np.abs(BPM_C / BPM_C[int(score_C.argmax())] - 1) <= SURE_WITHIN
    return float(share_C[near_C].sum() / share_C.sum())


def smooth(strength_T: Array) -> Array:
    return np.convolve(strength_T, (0.25, 0.5, 0.25), "same")


def autocorrelation(strength_T: Array) -> Array:
    """At lags 0 ... T - 1, unbiased, 1 at lag 0; zeros where nothing rises."""
    T = len(strength_T)
    centred = strength_T - strength_T.mean()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(centred, 2 * T)) ** 2, 2 * T)[:T] / np.arange(T, 0, -1)
    return correlation / correlation[0] if correlation[0] > 1e-9 else np.zeros(T)


def _log_onset_rate(strength_T: Array) -> float:
    before, here, after = strength_T[:-2], strength_T[1:-1], strength_T[2:]
    onsets = (here > before) & (here >= after) & (here > strength_T.mean() + strength_T.std())
    return float(np.log(onsets.sum() * FRAMES_PER_SECOND / len(strength_T) + 0.5))

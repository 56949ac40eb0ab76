"""What a sound is as music, without a reference: tempo, key, how even its beat, how constant its harmony, how much
of it returns. Heard by the ear of the built-in band (`lab.labels`), of a long sound in its middle minute."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.lab.labels import Estimate, judged, shipped
from partimento.lab.labels.features import FLOOR_DB, FRAMES_PER_SECOND, Array, Heard, Unlabelled, listen
from partimento.lab.scores import beats

QUARTERS = 4
ALIKE_DB = 2.0  # RMS over the mel levels of a window
WINDOW_SECONDS = 1.0
LEAST_RISE_DB = 1.0  # a held chord's levels move by less; what never rises by as much has no beat
SURE = 0.5  # a tempo less probable than this has no beats whose evenness could be told
_MERGED = 2  # frames of levels that are averaged before they are compared
_HEARD_DB = FLOOR_DB + 10  # a window all under this is silence, whose return says nothing


@dataclass(frozen=True)
class Music:
    """None is what cannot be heard in this sound; `scores.table` says what each figure is."""

    tempo_bpm: float | None = None
    tempo_confidence: float | None = None
    key: str | None = None
    key_confidence: float | None = None
    beat_stability: float | None = None
    chroma_consistency: float | None = None
    repetition: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def music(wave_CN: NDArray[np.floating], sample_rate: int) -> tuple[Music, Estimate | None]:
    """The figures, and the band's labels; all None for a sound under 3 s, silent (but for an offset) or not finite."""
    wave_CN = np.atleast_2d(np.asarray(wave_CN, dtype=np.float32))
    if wave_CN.size:
        wave_CN = (wave_CN - wave_CN.mean(1, keepdims=True, dtype=np.float64)).astype(np.float32)
    try:
        heard = listen(wave_CN, sample_rate)
    except Unlabelled:
        return Music(), None
    labels = judged(heard, shipped())
    strength_T = heard.rise_TG.sum(1)
    rises, pitched = bool(strength_T.max() > LEAST_RISE_DB), bool(heard.chroma_TP.any())
    sure = rises and labels.tempo_confidence is not None and labels.tempo_confidence >= SURE
    found = Music(
        tempo_bpm=labels.tempo if rises else None,
        tempo_confidence=labels.tempo_confidence if rises else None,
        key=labels.key if pitched else None,
        key_confidence=labels.key_confidence if pitched else None,
        beat_stability=beats.stability(beats.track(strength_T, labels.tempo)) if sure else None,
        chroma_consistency=chroma_consistency(heard.chroma_TP),
        repetition=repetition(heard),
    )
    return found, labels


def chroma_consistency(chroma_TP: Array) -> float | None:
    """Mean cosine between the summed pitch classes of neighbouring quarters; None where a quarter has no pitch."""
    if len(chroma_TP) < QUARTERS:
        return None
    parts = np.stack([part_TP.sum(0) for part_TP in np.array_split(chroma_TP, QUARTERS)])
    sizes = np.linalg.norm(parts, axis=1)
    if not sizes.all():
        return None
    parts /= sizes[:, None]
    return float(np.mean((parts[1:] * parts[:-1]).sum(1)))


def repetition(heard: Heard) -> float | None:
    """Share of the heard windows of 1 s for which another, at least 1 s away at any lag, has the same log-mel levels
    within 2 dB (RMS). A loop is 1, a held tone 1, white noise 0."""
    levels_TM = heard.levels_TM
    T = len(levels_TM) // _MERGED
    merged_TM = levels_TM[: T * _MERGED].reshape(T, _MERGED, -1).mean(1)
    W = round(WINDOW_SECONDS * FRAMES_PER_SECOND / _MERGED)
    windows = T - W + 1
    if windows < W + 1:
        return None
    least = np.full(windows, np.inf)
    for lag in range(W, windows):
        apart_T = np.square(merged_TM[lag:] - merged_TM[:-lag]).mean(1)
        sums = np.concatenate([[0.0], np.cumsum(apart_T)])
        mean = (sums[W:] - sums[:-W]) / W
        least[: len(mean)] = np.minimum(least[: len(mean)], mean)
        least[lag : lag + len(mean)] = np.minimum(least[lag : lag + len(mean)], mean)
    loud_T = merged_TM.max(1) > _HEARD_DB
    heard_w = np.lib.stride_tricks.sliding_window_view(loud_T, W).any(1)
    return float(np.mean(least[heard_w] <= ALIKE_DB**2)) if heard_w.any() else None

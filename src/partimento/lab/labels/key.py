"""Key: pitch classes of bass, middle and treble against one profile a mode, turned to each of twelve tonics.

The scheme of Krumhansl and Schmuckler (Krumhansl 1990), with a profile for each register that is fitted to data. The
roots of the shares stand beside the shares, so that weak degrees of the scale have their say.
"""

from __future__ import annotations

import numpy as np

from partimento.audio.score import NOTE_NAMES
from partimento.lab.labels.features import Array, Heard

_FLATS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_NAME_OF = {pitch: name for name, pitch in NOTE_NAMES.items()}  # the band's spelling, where it has one
KEYS = tuple(f"{_NAME_OF.get(tonic, _FLATS[tonic])} {mode}" for mode in ("major", "minor") for tonic in range(12))


def features(heard: Heard) -> Array:
    """[24, F] of the keys KEYS: the chroma as seen from the key's tonic, in the columns of the key's mode."""
    chroma_RP = np.concatenate([heard.chroma_RP, np.sqrt(heard.chroma_RP)])
    found = np.zeros((24, 2 * chroma_RP.size + 1))
    for tonic in range(12):
        seen = np.roll(chroma_RP, -tonic, axis=1).ravel()
        found[tonic, : chroma_RP.size] = seen
        found[12 + tonic, chroma_RP.size : -1] = seen
    found[12:, -1] = 1.0
    return found


def pick(features_CF: Array, weights_F: Array) -> str:
    return KEYS[int((features_CF @ weights_F).argmax())]


def confidence(features_CF: Array, weights_F: Array) -> float:
    """Probability of the likeliest key: the weights are those of a conditional logit."""
    score_C = features_CF @ weights_F
    return float(1 / np.exp(score_C - score_C.max()).sum())

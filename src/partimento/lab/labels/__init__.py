"""What a sound says about its own labels: tempo, key and style, from the audio alone.

Three small linear models over features that are written out (`features`, `tempo`, `key`, `style`), fitted on loops of
the synthetic band by `bench/labels.py` and kept in `judge.safetensors`. They are the band's ear: tempo and key carry
over to other music with a beat and a key, with more errors; of styles they know the band's eight and no other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from partimento.lab.labels import key, style, tempo
from partimento.lab.labels.features import Array, Heard, listen

FITTED = "judge.safetensors"


@dataclass(frozen=True)
class Judge:
    """Fitted weights: of tempo's and key's features, and of the style's (features [F, styles], its bias, and the mean
    and deviation by which they are scaled)."""

    tempo_F: Array
    key_F: Array
    style_FC: Array
    style_C: Array
    centre_F: Array
    scale_F: Array
    styles: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """tempo in beats per minute; key as "A minor"; style is one of the band's. The confidences are probabilities as the
    judge was fitted on the band: of other music they say less, and too much."""

    tempo: float
    key: str
    style: str
    tempo_confidence: float | None = None
    key_confidence: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(wave_CN: NDArray[np.floating], sample_rate: int, judge: Judge | None = None) -> Estimate:
    """The labels of a sound of at least 3 s (of a long one, its middle minute).

    `judge` is the one of the package by default. Raises features.Unlabelled (a ValueError) for a sound that is too
    short, silent or not finite: it has no labels, and none is made up.
    """
    return judged(listen(wave_CN, sample_rate), judge or shipped())


def judged(heard: Heard, judge: Judge) -> Estimate:
    tempo_CF, key_CF = tempo.features(heard), key.features(heard)
    scaled_F = (style.features(heard) - judge.centre_F) / judge.scale_F
    return Estimate(
        tempo.pick(tempo_CF, judge.tempo_F),
        key.pick(key_CF, judge.key_F),
        judge.styles[int((scaled_F @ judge.style_FC + judge.style_C).argmax())],
        tempo.confidence(tempo_CF, judge.tempo_F),
        key.confidence(key_CF, judge.key_F),
    )


@cache
def shipped() -> Judge:
    """The judge that lies in the package."""
    stored = resources.files(__package__).joinpath(FITTED).read_bytes()
    arrays = {name: array.astype(np.float64) for name, array in load(stored).items()}
    # safetensors: eight bytes of length, then the JSON header with its metadata.
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    return Judge(**arrays, styles=tuple(json.loads(header["__metadata__"]["styles"])))

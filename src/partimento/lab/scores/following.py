"""Does a set of sounds follow what was asked? Tempo, key, style by ear, texts by a CLAP checkpoint, beside chance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.keyed import numpy_rng
from partimento.lab.labels import Estimate, shipped
from partimento.lab.labels.key import KEYS
from partimento.lab.labels.tempo import SURE_WITHIN

ASPECTS = ("tempo", "key", "style")
_BPM = re.compile(r"(\d+(?:\.\d+)?) ?bpm", re.IGNORECASE)
_SAME = {"Db": "C#", "D#": "Eb", "Gb": "F#", "G#": "Ab", "A#": "Bb"}
_RESAMPLES = 2000
_MOST_BYTES = 1 << 20
_Z = 1.959963984540054


@dataclass(frozen=True)
class Asked:
    """What a sound was asked to be, as far as this can be judged by ear; `words` for a judge of texts."""

    tempo: float | None = None
    key: str | None = None
    style: str | None = None
    words: str = ""

    @classmethod
    def of(cls, tags: Sequence[str], text: str = "") -> Asked:
        """From tags such as "96 bpm", "A minor", "waltz"; the first of each kind counts, other tags are words only."""
        found: dict[str, Any] = {}
        for tag in tags:
            if bpm := _BPM.fullmatch(tag.strip()):
                found.setdefault("tempo", float(bpm[1]))
            elif key := _key(tag):
                found.setdefault("key", key)
            elif tag in shipped().styles:
                found.setdefault("style", tag)
        return cls(**found, words=text or ", ".join(tags))

    def met(self, aspect: str, heard: Estimate | None) -> bool:
        wanted = getattr(self, aspect)
        if heard is None:
            return False
        found = getattr(heard, aspect)
        return abs(found / wanted - 1) <= SURE_WITHIN if aspect == "tempo" else bool(found == wanted)


@dataclass(frozen=True)
class Share:
    """`right` of `asked`, with Wilson's 95 % interval; `chance`: the same sounds held against what the others were
    asked for (None with fewer than two)."""

    asked: int
    right: int
    share: float
    low: float
    high: float
    chance: float | None


@dataclass(frozen=True)
class Similarity:
    """Mean cosine of sounds and their texts, and `clap_chance` with the texts of the others; `gain` is the difference,
    with its 95 % bootstrap interval over sounds (None where there are fewer than six)."""

    checkpoint: str
    sha256: str
    asked: int
    clap: float
    clap_chance: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None


@dataclass
class Following:
    """None is what nothing was asked of."""

    items: int
    tempo: Share | None = None
    key: Share | None = None
    style: Share | None = None
    clap: list[Similarity] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def follow(asked: Sequence[Asked], heard: Sequence[Estimate | None]) -> Following | None:
    """None where nothing that can be heard was asked."""
    shares = {aspect: _share(aspect, asked, heard) for aspect in ASPECTS}
    if not any(shares.values()) and not any(one.words for one in asked):
        return None
    return Following(len(asked), shares["tempo"], shares["key"], shares["style"])


def _share(aspect: str, asked: Sequence[Asked], heard: Sequence[Estimate | None]) -> Share | None:
    chosen = [(one, sound) for one, sound in zip(asked, heard, strict=True) if getattr(one, aspect) is not None]
    n = len(chosen)
    if not n:
        return None
    met = np.array([[one.met(aspect, sound) for one, _ in chosen] for _, sound in chosen])
    right = int(np.trace(met))
    chance = float((met.sum() - right) / (n * (n - 1))) if n > 1 else None
    return Share(n, right, right / n, *wilson(right, n), chance)


def similarity(name: str, sha256: str, audio_ND: NDArray[np.float64], texts_ND: NDArray[np.float64]) -> Similarity:
    """Of sounds and their texts in this order; rows are unit vectors, or means of some."""
    n = len(audio_ND)
    cosine_NN = audio_ND @ texts_ND.T
    own_N = np.diag(cosine_NN)
    if n < 2:
        return Similarity(name, sha256, n, float(own_N.mean()), None, None, None, None)
    others_N = (cosine_NN.sum(1) - own_N) / (n - 1)
    gain_N = own_N - others_N
    low = high = None
    if n >= 6:
        rng = numpy_rng("clap bootstrap", n)
        drawn = gain_N[rng.integers(n, size=(_RESAMPLES, n))].mean(1)
        low, high = (float(edge) for edge in np.percentile(drawn, (2.5, 97.5)))
    return Similarity(name, sha256, n, float(own_N.mean()), float(others_N.mean()), float(gain_N.mean()), low, high)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927). Raises ValueError without a trial."""
    if not 0 <= hits <= trials or not trials:
        raise ValueError(f"{hits} of {trials} is no share")
    share, extra = hits / trials, _Z * _Z / trials
    middle = (share + extra / 2) / (1 + extra)
    half = _Z * math.sqrt(share * (1 - share) / trials + extra / (4 * trials)) / (1 + extra)
    return middle - half if hits else 0.0, middle + half if hits < trials else 1.0


def of_sample(path: Path) -> Asked | None:
    """What a sample of `partimento sample` was asked for, by the JSON beside it; None where there is no such record."""
    beside = path.with_suffix(".json")
    try:
        if beside.stat().st_size > _MOST_BYTES:
            return None
        tree = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return of_words(tree) if isinstance(tree, dict) and "request" in tree else None


def of_words(tree: Mapping[str, Any]) -> Asked:
    """Of {"tags": [...], "text": "..."}; what is none of both says nothing."""
    tags, text = tree.get("tags"), tree.get("text")
    named = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return Asked.of(named, text if isinstance(text, str) else "")


def _key(tag: str) -> str | None:
    tonic, _, mode = tag.strip().partition(" ")
    name = f"{_SAME.get(tonic, tonic)} {mode}"
    return name if name in KEYS else None

"""Pairs of a damaged and a clean wave to train a restorer on: made when they are drawn, or read from written files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from partimento.audio import shift
from partimento.keyed import below, numpy_rng, permute
from partimento.sound_settings import PairData
from partimento.training import pairfiles
from partimento.training.damage import Damage, Wave
from partimento.training.tasks.crops import Recording, begin, chances, gather

WHOLE_BYTES = 1 << 30  # of shifted recordings that are kept; if they would be more, each crop is shifted by itself


@dataclass(frozen=True)
class PairCrop:
    """Waves [N] of one length, in time with each other; the damaged one may exceed 1."""

    damaged_N: Wave
    target_N: Wave
    semitones: float


@dataclass(frozen=True)
class Excerpt:
    """What a restorer is judged by: waves [N], of a held-out recording."""

    source: str
    kind: str
    semitones: float
    damaged_N: Wave
    target_N: Wave


class Source(Protocol):
    """Where pairs come from. A pair is named by its side ("train", "held_out"), its recording there, and its shift."""

    semitones: list[float]
    full_band: bool

    def recordings(self, side: str) -> Sequence[Recording]: ...

    def excerpt(self, side: str, recording: int, semitones: float, start: int, stop: int) -> tuple[Wave, Wave]:
        """(damaged, target) of samples start..stop, which lie inside the recording."""

    def identity(self) -> dict[str, Any]: ...


class Pairs:
    """Crops of pairs as a pure function of their key, and a fixed list of excerpts of held-out recordings.

    Recordings are drawn as `chances` says, shifts evenly. A crop begins anywhere from a quarter of its length before
    a recording to where three quarters of it are left, a third of them moved inside; what is outside is silence.
    Both waves get the same level and polarity.
    """

    def __init__(self, source: Source, data: PairData) -> None:
        self._source = source
        self.sample_rate, self.task = data.sample_rate, data.task
        self.semitones, self.full_band = source.semitones, source.full_band
        self.identity = source.identity()
        self._train = source.recordings("train")
        self._cumulative = np.cumsum(chances(list(self._train), data.shares))
        self._judged: dict[tuple[int, float], list[Excerpt]] = {}

    @classmethod
    def open(cls, data: PairData) -> Pairs:
        """Gather and decode what the data name. Raises what `gather` raises, AUDIO042 (no pitch shifter), and PAIRS001,
        003, 004 and 005 (written pairs: none on a side, damaged, changed, or made for something else)."""
        if data.pairs is not None:
            return cls(pairfiles.Written.open(Path(data.pairs), data), data)
        return cls(Shifted(data), data)

    @property
    def train(self) -> int:
        """Pairs to train on: recordings times shifts."""
        return len(self._train) * len(self.semitones)

    def draw(self, crop: int, *parts: int | str) -> PairCrop:
        """The crop of `crop` samples of this key."""
        rng = numpy_rng("pair", *parts)
        place = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        recording = min(place, len(self._train) - 1)
        semitones = self.semitones[int(rng.integers(len(self.semitones)))]
        length = len(self._train[recording].wave_N)
        start = begin(rng, length, crop)
        first, last = max(start, 0), min(start + crop, length)
        damaged_n, target_n = self._source.excerpt("train", recording, semitones, first, last)
        level = 10 ** (rng.uniform(-15, 3) / 20) / max(1.0, float(np.abs(target_n).max(initial=0.0)))
        level *= float(rng.choice([-1.0, 1.0]))
        waves_2N = np.zeros((2, crop), np.float32)
        waves_2N[0, first - start : last - start] = level * damaged_n
        waves_2N[1, first - start : last - start] = level * target_n
        return PairCrop(waves_2N[0], waves_2N[1], semitones)

    def judged(self, limit: int, seconds: float) -> list[Excerpt]:
        """At most `limit` excerpts of at most `seconds`, always the same: all shifts equally often (as far as `limit`
        allows), over as many held-out recordings as there are, in an order that mixes their kinds."""
        known = self._judged.get((limit, seconds))
        if known is None:
            recordings, shifts = self._source.recordings("held_out"), self.semitones
            number = min(limit, len(recordings) * len(shifts))
            round_ = math.lcm(len(recordings), len(shifts))  # after which recording and shift would meet again
            known = []
            for item in range(number):
                recording = permute((item + item // round_) % len(recordings), len(recordings), "judged")
                known.append(self._excerpt(recording, shifts[item % len(shifts)], seconds))
            self._judged[limit, seconds] = known
        return known

    def _excerpt(self, recording: int, semitones: float, seconds: float) -> Excerpt:
        """An excerpt is of the same part of its recording whatever the shift."""
        chosen = self._source.recordings("held_out")[recording]
        length = min(round(seconds * self.sample_rate), len(chosen.wave_N))
        start = below(len(chosen.wave_N) - length + 1, "judged", chosen.source, chosen.sha256)
        damaged_N, target_N = self._source.excerpt("held_out", recording, semitones, start, start + length)
        return Excerpt(chosen.source, chosen.kind, semitones, damaged_N, target_N)


class Shifted:
    """Recordings in memory, shifted when they are first drawn. Whole ones are kept, where all of them have room."""

    def __init__(self, data: PairData) -> None:
        self.semitones, self.full_band = list(data.semitones), data.full_band
        self._engine = shift.engine_version()
        self._sound = gather(data, data.sample_rate)
        self._damage = Damage(data.task, data.sample_rate, data.full_band)
        copies = sum(bool(n) + self._damage.limits(n) for n in self.semitones)
        samples = sum(len(r.wave_N) for r in self._sound.train)
        self.whole = samples * copies * 4 <= WHOLE_BYTES
        self._kept: dict[tuple[int, float], tuple[Wave, Wave]] = {}

    def recordings(self, side: str) -> Sequence[Recording]:
        return self._sound.train if side == "train" else self._sound.held_out

    def excerpt(self, side: str, recording: int, semitones: float, start: int, stop: int) -> tuple[Wave, Wave]:
        wave_N = self.recordings(side)[recording].wave_N
        if side != "train" or not self.whole:
            return self._damage.excerpt(wave_N, semitones, start, stop)
        pair = self._kept.get((recording, semitones))
        if pair is None:
            pair = self._damage.damaged(wave_N, semitones), self._damage.target(wave_N, semitones)
            self._kept[recording, semitones] = pair
        return pair[0][start:stop], pair[1][start:stop]

    def identity(self) -> dict[str, Any]:
        """Recordings, engine, and whether they are shifted whole: what decides samples beside the configuration."""
        return {**self._sound.identity(), "engine": self._engine, "shifted": "whole" if self.whole else "pieces"}

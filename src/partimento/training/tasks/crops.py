"""Sound to train a codec on: recordings in memory, split by hashed name, and crops of them drawn by key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import files
from partimento.audio.synth import band
from partimento.codecs.layout import arrange
from partimento.config import SoundData
from partimento.errors import PartimentoError
from partimento.keyed import key, numpy_rng

HELD_OUT_PERCENT = 15
BAND_SEED = 1  # the book of loops that the codec hears; packs of the demo and the tests use others

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A mono wave [N]; `source` decides the split, `kind` is the folder's name, or "band"."""

    source: str
    kind: str
    wave_N: Wave
    sha256: str


@dataclass(frozen=True)
class Sound:
    """All that there is to learn from and to judge by."""

    train: list[Recording]
    held_out: list[Recording]

    def identity(self) -> dict[str, str]:
        """A hash of every file on each side, in order."""
        return {
            side: hashlib.sha256("".join(f"{r.source} {r.sha256}\n" for r in recordings).encode()).hexdigest()
            for side, recordings in (("train", self.train), ("held_out", self.held_out))
        }


def is_held_out(source: str) -> bool:
    """About 15 % of all names, the same ones whatever else is in the folder."""
    return key("held-out", source) % 100 < HELD_OUT_PERCENT


def gather(data: SoundData, sample_rate: int) -> Sound:
    """Decode every recording of data.folders, play data.band_loops loops, split by hashed file name or song.

    Raises what reading audio raises (AUDIO...), and CODEC006 if a side is left empty.
    """
    recordings = [
        _read(path, Path(folder).name, sample_rate) for folder in data.folders for path in files.discover(Path(folder))
    ]
    recordings += [_play(index, sample_rate) for index in range(data.band_loops)]
    sound = Sound(
        [r for r in recordings if not is_held_out(r.source)], [r for r in recordings if is_held_out(r.source)]
    )
    if not sound.train or not sound.held_out:
        raise PartimentoError(
            "CODEC006",
            f"{len(sound.train)} recordings to train on and {len(sound.held_out)} held out",
            where=", ".join([*data.folders, f"{data.band_loops} band loops"]),
            why=f"about {HELD_OUT_PERCENT} % of the file names are held out, by their hash; there are too few files",
            next="add recordings to data.folders, or set data.band_loops=60",
        )
    return sound


def _read(path: Path, kind: str, sample_rate: int) -> Recording:
    audio = files.read(path)
    wave_1N = arrange(audio.wave_CN).wave_CN
    wave_N = files.resample(wave_1N, audio.sample_rate, sample_rate)[0]
    return Recording(path.name, kind, np.ascontiguousarray(wave_N, np.float32), commit.sha256(path))


def _play(index: int, sample_rate: int) -> Recording:
    loop = band(BAND_SEED, index)
    wave_N = files.resample(arrange(loop.wave_CN).wave_CN, loop.sample_rate, sample_rate)[0]
    return Recording(
        loop.source, "band", np.ascontiguousarray(wave_N, np.float32), hashlib.sha256(wave_N.tobytes()).hexdigest()
    )


class Crops:
    """Crops of `samples` samples as a pure function of their key, with the augmentation that little data needs.

    A crop begins anywhere from a quarter of its length before a recording to where three quarters of it are left;
    a third of them is moved inside, so that true starts and ends are heard often. Half are resampled by up to half an
    octave each way, a quarter have another crop mixed in, all get a level and a polarity.
    """

    def __init__(self, recordings: list[Recording], samples: int, band_share: float) -> None:
        self.recordings = recordings
        self.samples = samples
        # By the root of the length: neither the few long recordings nor the many short ones are all that is heard.
        weights = np.sqrt([len(r.wave_N) for r in recordings])
        is_band = np.array([r.kind == "band" for r in recordings])
        if is_band.any() and not is_band.all():
            weights[is_band] *= band_share / weights[is_band].sum()
            weights[~is_band] *= (1 - band_share) / weights[~is_band].sum()
        self._cumulative = np.cumsum(weights / weights.sum())

    def draw(self, *parts: int | str) -> Wave:
        """The crop [samples] of this key."""
        rng = numpy_rng("crop", *parts)
        wave = self._one(rng)
        if rng.random() < 0.25:
            wave = wave + _from_decibels(rng.uniform(-12, 0)) * self._one(rng)
        wave = wave * (_from_decibels(rng.uniform(-15, 3)) * rng.choice([-1.0, 1.0]))
        return (wave / max(1.0, float(np.abs(wave).max()))).astype(np.float32)

    def _one(self, rng: np.random.Generator) -> Wave:
        place = int(np.searchsorted(self._cumulative, rng.random()))
        source = self.recordings[min(place, len(self.recordings) - 1)].wave_N
        speed = 2 ** rng.uniform(-0.5, 0.5) if rng.random() < 0.5 else 1.0
        needed = int(self.samples * speed) + 2
        start = int(rng.integers(-needed // 4, max(len(source) - 3 * needed // 4, 1 - needed // 4)))
        if rng.random() < 1 / 3:
            start = max(0, min(start, len(source) - needed))
        wave = np.zeros(needed, np.float32)
        first, last = max(start, 0), min(start + needed, len(source))
        if first < last:
            wave[first - start : last - start] = source[first:last]
        if speed != 1.0:
            wave = soxr.resample(wave, speed, 1.0, quality="MQ")
        return np.pad(wave[: self.samples], (0, max(0, self.samples - len(wave))))


def _from_decibels(level: float) -> float:
    return float(10 ** (level / 20))

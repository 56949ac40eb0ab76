"""Sound to train on: recordings in memory, split by hashed name, and crops of them drawn by key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import files
from partimento.audio.styles import STYLES
from partimento.audio.synth import band
from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError
from partimento.keyed import key, numpy_rng
from partimento.sound_settings import Recordings

HELD_OUT_PERCENT = 15
BAND_SEED = 1  # the book of loops that networks hear; packs of the demo and the tests use others
BAND, UNHEARD = "band", "band: unheard styles"

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """A mono wave [N]; `kind` is the name of the folder of `data.folders` that it is from, or the band's.

    `source` is the file's name, or the band's song; `group` decides the split, and is the source or the file's folder.
    """

    source: str
    kind: str
    wave_N: Wave
    sha256: str
    group: str


@dataclass(frozen=True)
class Sound:
    """All that there is to learn from and to judge by."""

    train: list[Recording]
    held_out: list[Recording]

    def identity(self) -> dict[str, str]:
        """A hash of every recording on each side, in order."""
        return {
            side: hashlib.sha256("".join(f"{r.group} {r.sha256}\n" for r in recordings).encode()).hexdigest()
            for side, recordings in (("train", self.train), ("held_out", self.held_out))
        }


def is_held_out(group: str) -> bool:
    """About 15 % of all names, the same ones whatever else is in the folder."""
    return key("held-out", group) % 100 < HELD_OUT_PERCENT


def held_out_of(groups: Collection[str]) -> set[str]:
    """The groups that `is_held_out`; where that leaves a side empty, the one of two or more whose hash comes first."""
    found = {group for group in groups if is_held_out(group)}
    if len(groups) < 2 or 0 < len(found) < len(groups):
        return found
    return {min(groups, key=lambda group: (key("held-out", group) % 100, group))}


def gather(data: Recordings, sample_rate: int) -> Sound:
    """Decode every recording of data.folders, play data.band_loops loops, split by the hash of what data.group names.

    Loops of data.held_out_styles are all held out, as a kind of their own. Raises what reading audio raises (AUDIO...),
    CODEC006 if a side is left empty, and CODEC020 for a style that the band does not play.
    """
    unknown = [style for style in data.held_out_styles if style not in {known.name for known in STYLES}]
    if unknown:
        raise PartimentoError(
            "CODEC020",
            f"the band does not play {', '.join(map(repr, unknown))}",
            where="data.held_out_styles",
            why=f"it plays {', '.join(style.name for style in STYLES)}",
            next="name styles of these",
        )
    found = [(path, Path(folder)) for folder in data.folders for path in files.discover(Path(folder))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoders and resampler leave Python's lock alone
        recordings = list(threads.map(lambda pair: read(pair[0], pair[1], data.group, sample_rate), found))
    recordings += [_play(index, data.held_out_styles, sample_rate) for index in range(data.band_loops)]
    chosen = held_out_of({r.group for r in recordings if r.kind != UNHEARD})
    copies = {r.sha256 for r in recordings if r.kind == UNHEARD or r.group in chosen}
    held_out = [r.sha256 in copies for r in recordings]  # the same file under another name, too
    sound = Sound(
        [r for r, held in zip(recordings, held_out, strict=True) if not held],
        [r for r, held in zip(recordings, held_out, strict=True) if held],
    )
    if not sound.train or not sound.held_out:
        raise PartimentoError(
            "CODEC006",
            f"{len(sound.train)} recordings to train on and {len(sound.held_out)} held out",
            where=", ".join([*data.folders, f"{data.band_loops} band loops"]),
            why=f"about {HELD_OUT_PERCENT} % of the {data.group}s are held out, by the hash of the name: it takes two",
            next="data.group=file" if data.group == "folder" and len(found) > 1 else "add recordings to data.folders",
        )
    return sound


def read(
    path: Path, folder: Path, group: Literal["file", "folder"], sample_rate: int, *, isolated: bool = False
) -> Recording:
    """The file `path` below `folder`, mixed to mono and resampled; `isolated` decodes it in a process of its own.

    Raises what `audio.files.read` raises.
    """
    audio = files.read_isolated(path) if isolated else files.read(path)
    wave_1N = arrange(audio.wave_CN).wave_CN
    wave_N = files.resample(wave_1N, audio.sample_rate, sample_rate)[0]
    return Recording(
        path.name,
        _name(folder),
        np.ascontiguousarray(wave_N, np.float32),
        commit.sha256(path),
        group_of(path, folder, group),
    )


def group_of(path: Path, folder: Path, group: Literal["file", "folder"]) -> str:
    """What the split keeps together with the file `path` below `folder`."""
    return path.name if group == "file" else _name_of_parent(path, folder)


def _name(path: Path) -> str:
    """What a path given by a user is called; "." and ".." have names, too."""
    return path.resolve().name if path.name in ("", "..") else path.name


def _name_of_parent(path: Path, folder: Path) -> str:
    """The folder of a file, from the name of the folder that was given on."""
    if path == folder:
        return _name(path.parent)
    return (Path(_name(folder)) / path.relative_to(folder).parent).as_posix()


def _play(index: int, unheard: list[str], sample_rate: int) -> Recording:
    loop = band(BAND_SEED, index)
    wave_N = files.resample(arrange(loop.wave_CN).wave_CN, loop.sample_rate, sample_rate)[0]
    return Recording(
        loop.source,
        UNHEARD if loop.labels.style in unheard else BAND,
        np.ascontiguousarray(wave_N, np.float32),
        hashlib.sha256(wave_N.tobytes()).hexdigest(),
        loop.source,
    )


class Crops:
    """Crops of `samples` samples as a pure function of their key, with the augmentation that little data needs.

    Kinds are drawn evenly times `shares` (1 for those that it does not name). A crop begins anywhere from a quarter of
    its length before a recording to where three quarters of it are left; a third of them is moved inside, so that true
    starts and ends are heard often. Half are resampled by up to half an octave each way, a quarter have another crop
    mixed in, all get a level and a polarity. Raises CODEC020 for shares that leave nothing, or name no kind.
    """

    def __init__(self, recordings: list[Recording], samples: int, shares: Mapping[str, float]) -> None:
        self.recordings = recordings
        self.samples = samples
        self._cumulative = np.cumsum(chances(recordings, shares))

    def draw(self, *parts: int | str) -> Wave:
        """The crop [samples] of this key."""
        rng = numpy_rng("crop", *parts)
        wave = self._one(rng)
        if rng.random() < 0.25:
            wave = wave + _from_decibels(rng.uniform(-12, 0)) * self._one(rng)
        wave = wave * (_from_decibels(rng.uniform(-15, 3)) * rng.choice([-1.0, 1.0]))
        return (wave / max(1.0, float(np.abs(wave).max()))).astype(np.float32)

    def _one(self, rng: np.random.Generator) -> Wave:
        place = int(np.searchsorted(self._cumulative, rng.random(), side="right"))
        source = self.recordings[min(place, len(self.recordings) - 1)].wave_N
        speed = 2 ** rng.uniform(-0.5, 0.5) if rng.random() < 0.5 else 1.0
        needed = int(self.samples * speed) + 2
        start = begin(rng, len(source), needed)
        wave = np.zeros(needed, np.float32)
        first, last = max(start, 0), min(start + needed, len(source))
        if first < last:
            wave[first - start : last - start] = source[first:last]
        if speed != 1.0:
            wave = soxr.resample(wave, speed, 1.0, quality="MQ")
        return np.pad(wave[: self.samples], (0, max(0, self.samples - len(wave))))


def begin(rng: np.random.Generator, length: int, samples: int) -> int:
    """Where a crop of `samples` samples begins in a recording of `length`; before 0 and after it there is silence."""
    start = int(rng.integers(-samples // 4, max(length - 3 * samples // 4, 1 - samples // 4)))
    if rng.random() < 1 / 3:
        start = max(0, min(start, length - samples))
    return start


def chances(recordings: list[Recording], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """How often each recording is drawn: its kind's share, and inside a kind by the root of the length.

    By the root, neither the few long recordings nor the many short ones are all that is heard. Raises CODEC020.
    """
    kinds = sorted({r.kind for r in recordings})
    unknown = sorted(shares.keys() - set(kinds))
    if unknown or not any(shares.get(kind, 1.0) > 0 for kind in kinds):
        raise PartimentoError(
            "CODEC020",
            f"there is no {', '.join(map(repr, unknown))} to train on" if unknown else "every kind has the share 0",
            where="data.shares",
            why=f"what there is: {', '.join(kinds)}",
            next="name kinds of these: the folders of data.folders, or band",
        )
    roots = np.sqrt([max(1, len(r.wave_N)) for r in recordings])
    of_kind = {kind: np.array([r.kind == kind for r in recordings]) for kind in kinds}
    weights = np.zeros(len(recordings))
    for kind, members in of_kind.items():
        weights[members] = shares.get(kind, 1.0) * roots[members] / roots[members].sum()
    return np.asarray(weights / weights.sum())


def _from_decibels(level: float) -> float:
    return float(10 ** (level / 20))

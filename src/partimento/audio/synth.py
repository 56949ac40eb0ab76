"""A seeded band that plays labelled loops: music for tests, for the demo and for first experiments, free of any rights.

A song is (style, key, tempo, chords, instruments, groove); every two loops share one, with another melody and sometimes
a player less. Each loop is a whole number of bars and seamless: what rings past the end is heard at the start. Its
labels are true because the music was made from them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partimento import commit
from partimento.audio import files
from partimento.audio.captions import caption
from partimento.audio.instruments import RATE
from partimento.audio.score import Song, compose
from partimento.audio.studio import record
from partimento.audio.styles import KEYS, STYLES
from partimento.keyed import numpy_rng, permute
from partimento.progress import Progress, Quiet

LICENCE = "CC0-1.0"
LOOPS_PER_SONG = 2
_MOST_BARS = 64


@dataclass(frozen=True)
class Labels:
    """What a loop truly is."""

    style: str
    tempo: int  # beats per minute
    key: str  # "A minor"
    bars: int
    metre: str  # "4/4"
    instruments: tuple[str, ...]


@dataclass(frozen=True)
class Loop:
    """One recording of the band: `wave_CN` float32 in [-1, 1], its labels, and the song that it comes from."""

    wave_CN: NDArray[np.float32]
    sample_rate: int
    labels: Labels
    source: str
    name: str

    @property
    def tags(self) -> list[str]:
        return [self.labels.style, f"{self.labels.tempo} bpm", self.labels.key, *self.labels.instruments]


def band(seed: int, index: int = 0, *, stereo: bool = False, seconds: float = 8.0) -> Loop:
    """Loop `index` of the book that `seed` names, of 1, 2, 4, 8 ... bars: the length nearest to `seconds`.

    Raises ValueError unless 0 < seconds and index >= 0. Equal arguments give equal samples.
    """
    plan = _plan(seed, index, seconds)
    wave_CN = record(plan.song, plan.labels.bars, plan.players, channels=2 if stereo else 1, key=("loop", seed, index))
    key = plan.labels.key.replace(" ", "-").lower()
    name = f"{index:05d}_{plan.labels.style.replace(' ', '-')}_{plan.labels.tempo}_{key}"
    source = f"band-{seed}-song-{index // LOOPS_PER_SONG:05d}"
    return Loop(wave_CN, RATE, plan.labels, source=source, name=name)


def labels_of(seed: int, index: int, *, seconds: float = 8.0) -> Labels:
    """The labels that `band` gives with the same arguments, without playing. Raises as it does."""
    return _plan(seed, index, seconds).labels


def render_band(
    folder: Path,
    count: int,
    seed: int,
    *,
    stereo: bool = False,
    seconds: float = 8.0,
    captions: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write loops 0..count-1 of a seed as 16-bit FLAC and, last, `tags.jsonl`; returns the paths of the audio.

    A row of tags.jsonl is {"file", "tags", "source", "licence", "labels"}, and with `captions` {"caption"} too. Raises
    SYS002 when the disk is full.
    """
    folder = Path(folder)
    progress = progress or Quiet()
    rows, paths = [], []
    for index in range(count):
        loop = band(seed, index, stereo=stereo, seconds=seconds)
        paths.append(folder / f"{loop.name}.flac")
        files.write(paths[-1], loop.wave_CN, loop.sample_rate)
        row = {"file": paths[-1].name, "tags": loop.tags, "source": loop.source, "licence": LICENCE}
        if captions:
            row["caption"] = caption(loop.labels, seed, index)
        rows.append(json.dumps({**row, "labels": asdict(loop.labels)}, ensure_ascii=False))
        progress.update(index + 1, count, loop=", ".join(loop.tags[:3]))
    commit.text(folder / "tags.jsonl", "".join(f"{row}\n" for row in rows))
    return paths


@dataclass(frozen=True)
class _Plan:
    song: Song
    players: list[str]
    labels: Labels


def _plan(seed: int, index: int, seconds: float) -> _Plan:
    if not 0 < seconds <= 600 or index < 0:
        raise ValueError("seconds must lie in (0, 600] and index must not be negative")
    song = _song(seed, index // LOOPS_PER_SONG)
    bar_seconds = song.style.beats * 60 / song.tempo
    doublings = max(0, round(float(np.log2(seconds / bar_seconds))))
    players = _players(song, first=index % LOOPS_PER_SONG == 0, rng=numpy_rng("players", seed, index))
    instruments = {"drums": "drums", "bass": song.bass, "chords": song.comping, "lead": song.lead}
    labels = Labels(
        style=song.style.name,
        tempo=song.tempo,
        key=song.key,
        bars=min(2**doublings, _MOST_BARS),
        metre=f"{song.style.beats}/4",
        instruments=tuple(instruments[player] for player in players),
    )
    return _Plan(song, players, labels)


def _song(seed: int, number: int) -> Song:
    """Songs go round the styles in a new order each time, so that few songs already show all of them."""
    style = STYLES[permute(number % len(STYLES), len(STYLES), "styles", seed, number // len(STYLES))]
    rng = numpy_rng("song", seed, number)
    modes = sorted(style.progressions)
    mode = modes[int(rng.integers(len(modes)))]
    tonic = KEYS[mode][int(rng.integers(len(KEYS[mode])))]
    return compose(style, tonic, mode, rng)


def _players(song: Song, *, first: bool, rng: np.random.Generator) -> list[str]:
    """Everybody plays in a song's first loop; in the other one player may rest. Without drums the chords stay."""
    players = ["drums", "bass", "chords", "lead"] if song.style.kit else ["bass", "chords", "lead"]
    resting = players[int(rng.integers(len(players)))]
    if not first and resting != "bass" and rng.random() < 0.5:
        players.remove(resting)
    return players

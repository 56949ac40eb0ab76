"""What a restorer is judged on: excerpts of held-out recordings, of a run's data, of written pairs, or of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from partimento import commit
from partimento.audio import files
from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError
from partimento.keyed import below, permute
from partimento.progress import Progress, Quiet
from partimento.sound_settings import PairData
from partimento.training import pairfiles
from partimento.training.damage import CONTEXT_SECONDS, Damage, Wave
from partimento.training.tasks.crops import Recording, is_held_out
from partimento.training.tasks.pairs import Shifted, Source

EXCERPT_SECONDS = 4.0


@dataclass(frozen=True)
class Held:
    """Held-out recordings and where their pairs come from. `told` says what they are; `doubts` what to know of them."""

    pairs: Source
    told: str
    doubts: tuple[str, ...] = ()

    def pieces(self, sample_rate: int, limit: int, seconds: float = EXCERPT_SECONDS) -> list[Piece]:
        """One excerpt each of at most `limit` recordings, in an order that mixes their kinds; always the same."""
        recordings = self.pairs.recordings("held_out")
        order = [permute(place, len(recordings), "judged") for place in range(len(recordings))]
        return [self._piece(number, sample_rate, seconds) for number in order[:limit]]

    def _piece(self, number: int, sample_rate: int, seconds: float) -> Piece:
        recording = self.pairs.recordings("held_out")[number]
        N = len(recording.wave_N)
        length = min(round(seconds * sample_rate), N)
        start = below(N - length + 1, "judged", recording.source, recording.sha256)
        return Piece(self.pairs, number, recording, start, start + length)


@dataclass(frozen=True)
class Piece:
    """Samples start..stop of a held-out recording."""

    pairs: Source
    number: int
    recording: Recording
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def clean(self, start: int, stop: int) -> Wave:
        """Samples of the recording. Of written pairs the target of the lowest shift, which no shift has limited if it
        is not above 0; their recordings are not held in memory."""
        if isinstance(self.pairs, pairfiles.Written):
            return self.pairs.excerpt("held_out", self.number, min(self.pairs.semitones), start, stop)[1]
        return self.recording.wave_N[start:stop]

    def pair(self, semitones: float) -> tuple[Wave, Wave]:
        """(damaged, target); of a shift by nothing both are the excerpt."""
        if semitones == 0:
            wave_N = self.clean(self.start, self.stop)
            return wave_N, wave_N
        return self.pairs.excerpt("held_out", self.number, semitones, self.start, self.stop)

    def around(self, sample_rate: int) -> tuple[Wave, slice]:
        """The excerpt with half a second on each side, as far as there is any, and where in it the excerpt lies."""
        context = round(CONTEXT_SECONDS * sample_rate)
        first = max(0, self.start - context)
        last = min(len(self.recording.wave_N), self.stop + context)
        return self.clean(first, last), slice(self.start - first, self.stop - first)


class Files:
    """All recordings of some files and folders, damaged as a restorer is used to."""

    def __init__(self, recordings: Sequence[Recording], damage: Damage, semitones: Sequence[float]) -> None:
        self._recordings = recordings
        self._damage = damage
        self.full_band = damage.full_band
        self.semitones = list(semitones)

    def recordings(self, side: str) -> Sequence[Recording]:
        return self._recordings

    def excerpt(self, side: str, recording: int, semitones: float, start: int, stop: int) -> tuple[Wave, Wave]:
        return self._damage.excerpt(self._recordings[recording].wave_N, semitones, start, stop)

    def identity(self) -> dict[str, Any]:
        return {}


def from_data(data: PairData, semitones: Sequence[float] | None = None) -> Held:
    """What a run holds out of its own data. Raises what gathering them raises, and as `from_pairs`."""
    if data.pairs is not None:
        return from_pairs(Path(data.pairs), data, semitones)
    source = Shifted(data)
    return Held(source, f"{len(source.recordings('held_out'))} recordings that the run held out")


def from_pairs(folder: Path, data: PairData, semitones: Sequence[float] | None = None) -> Held:
    """The held-out side of a folder that `partimento pairs` wrote. Raises PAIRS..., and LAB030 for `semitones` that it
    was not written at."""
    source = pairfiles.Written.open(folder, data)
    absent = sorted({float(shift) for shift in semitones or ()} - {0.0, *source.semitones})
    if absent:
        there = ", ".join(f"{shift:+g}" for shift in source.semitones)
        raise nothing(f"{folder} has no pairs at {', '.join(f'{shift:+g}' for shift in absent)} semitones, but {there}")
    return Held(source, f"the held-out pairs of {folder.name}")


def from_files(
    places: Sequence[Path],
    task: Literal["clean", "unshift"],
    sample_rate: int,
    full_band: bool,
    semitones: Sequence[float],
    limit: int,
    progress: Progress | None = None,
) -> Held:
    """At most `limit` recordings there, in an order that mixes folders, mixed to mono at the network's rate; unreadable
    ones are passed over, and told.

    Raises AUDIO001, SYS004, and LAB030 where none can be read.
    """
    progress = progress or Quiet()
    paths = files.discover(list(places))
    progress.stage("read", "recordings, to mono at the network's rate")
    recordings: list[Recording] = []
    unread: list[str] = []
    for path in [paths[permute(place, len(paths), "read")] for place in range(len(paths))]:
        if len(recordings) == limit:
            break
        try:
            audio = files.read_isolated(path)
        except PartimentoError as err:
            unread.append(f"{path.name} ({err.code})")
            continue
        wave_N = files.resample(arrange(audio.wave_CN).wave_CN, audio.sample_rate, sample_rate)[0]
        wave_N = np.ascontiguousarray(wave_N, np.float32)
        recordings.append(Recording(path.name, path.parent.name, wave_N, commit.sha256(path), path.name))
        progress.update(len(recordings), min(limit, len(paths)))
    if not recordings:
        raise nothing(f"none of {len(paths)} files can be read: {', '.join(unread[:3])}")
    doubts = []
    if unread:
        doubts.append(f"{len(unread)} files cannot be read and are left out: {', '.join(unread[:5])}")
    heard = sum(not is_held_out(recording.source) for recording in recordings)
    if heard:
        doubts.append(
            f"{heard} of {len(recordings)} recordings have names that a training on their folder does not hold out: "
            "figures of what a restorer was trained on are too good"
        )
    told = f"{len(recordings)} of {len(paths)} recordings in {', '.join(path.name for path in places[:3])}"
    return Held(Files(recordings, Damage(task, sample_rate, full_band), semitones), told, tuple(doubts))


def nothing(why: str) -> PartimentoError:
    return PartimentoError(
        "LAB030",
        "there is nothing to evaluate this restorer on",
        why=why,
        next="name held-out recordings (--against MUSIC), or a folder that partimento pairs wrote (--pairs PAIRS)",
    )

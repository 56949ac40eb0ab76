"""From a style, a key and a seed to the notes of each player.

Time is counted in sixteenths (`step`) until `Clock` turns it into seconds; pitch in MIDI numbers (60 = middle C).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from partimento.audio.styles import Bars, Style

NOTE_NAMES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "Bb": 10, "B": 11}
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PENTATONIC = {"major": (0, 2, 4, 7, 9), "minor": (0, 3, 5, 7, 10)}
T = TypeVar("T")
_NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII")
_STRENGTH = {"X": 1.0, "x": 0.8, "o": 0.45, "?": 0.4}


@dataclass(frozen=True)
class Note:
    step: float
    length: float  # in steps
    pitch: int
    velocity: float  # 0..1


@dataclass(frozen=True)
class Hit:
    step: float
    drum: str
    velocity: float


@dataclass(frozen=True)
class Chord:
    root: int  # pitch class
    tones: tuple[int, ...]  # pitch classes, root first


@dataclass(frozen=True)
class Song:
    """What the loops of one song share."""

    style: Style
    tempo: int
    tonic: str
    mode: str
    progression: tuple[Chord, ...]
    bass: str
    bass_line: Bars
    comping: str
    comping_line: Bars
    lead: str
    groove: dict[str, Bars]

    @property
    def key(self) -> str:
        return f"{self.tonic} {self.mode}"

    @property
    def steps_per_bar(self) -> int:
        return 4 * self.style.beats


def compose(style: Style, tonic: str, mode: str, rng: np.random.Generator) -> Song:
    progression = _pick(rng, style.progressions[mode]).split()
    comping, comping_line = _pick(rng, style.comping)
    return Song(
        style=style,
        tempo=_pick(rng, style.tempi),
        tonic=tonic,
        mode=mode,
        progression=tuple(chord(numeral, tonic, mode) for numeral in progression),
        bass=_pick(rng, style.basses),
        bass_line=_pick(rng, style.bass_lines),
        comping=comping,
        comping_line=comping_line,
        lead=_pick(rng, tuple(lead for lead in style.leads if lead != comping)),
        groove=_pick(rng, style.grooves),
    )


def chord(numeral: str, tonic: str, mode: str) -> Chord:
    """A Roman numeral in a key: case gives the third; `7` adds the minor seventh, `M7` the major one.

    `0` is half-diminished. Degrees are those of the key's own scale, so VI in A minor is F.
    """
    match = re.fullmatch(r"([IV]+|[iv]+)(M7|7|0)?", numeral)
    if match is None:
        raise ValueError(f"{numeral} is not a chord")
    degree, extra = match.groups()
    third = 4 if degree.isupper() else 3
    shape = {None: (0, third, 7), "7": (0, third, 7, 10), "M7": (0, third, 7, 11), "0": (0, 3, 6, 10)}[extra]
    root = (NOTE_NAMES[tonic] + SCALES[mode][_NUMERALS.index(degree.upper())]) % 12
    return Chord(root, tuple((root + interval) % 12 for interval in shape))


def chord_plan(song: Song, bars: int) -> tuple[list[Chord], int]:
    """The chords of a loop and how many steps each lasts: at least half a bar of four, a whole bar of three."""
    total = bars * song.steps_per_bar
    shortest = song.steps_per_bar // 2 if song.style.beats == 4 else song.steps_per_bar
    count = min(len(song.progression), total // shortest)
    while total % count:
        count -= 1
    return list(song.progression[:count]), total // count


def written(pattern: Bars, song: Song, bars: int, span: int | None = None) -> Iterator[tuple[int, int, str]]:
    """(step, length, symbol) of every stroke of a pattern; a held note is struck again where the chord changes."""
    line = "".join(pattern[bar % len(pattern)] for bar in range(bars))
    held = "."
    struck: list[tuple[int, int, str]] = []
    for step, symbol in enumerate(line):
        again = symbol == "-" and span is not None and step % span == 0 and held != "."
        if symbol == "-" and not again:
            if struck and held != ".":
                start, length, name = struck[-1]
                struck[-1] = (start, length + 1, name)
            continue
        held = held if again else symbol
        if held != ".":
            struck.append((step, 1, held))
    yield from struck


def drum_part(song: Song, bars: int, fill: bool, rng: np.random.Generator) -> list[Hit]:
    total = bars * song.steps_per_bar
    fill_from = total - 4 if fill else total
    hits = []
    for drum, pattern in song.groove.items():
        for step, _, symbol in written(pattern, song, bars):
            absent = symbol == "?" and rng.random() < 0.5
            replaced = step >= fill_from and drum not in ("kick", "ride")
            if not absent and not replaced:
                hits.append(Hit(step, drum, _STRENGTH[symbol]))
    if fill:
        drums = _pick(
            rng,
            (("snare",) * 4, ("snare", "snare", "high tom", "low tom"), ("high tom", "high tom", "low tom", "low tom")),
        )
        played = rng.random(4) < (1.0, 0.6, 0.9, 0.8)
        hits += [Hit(fill_from + i, drum, 0.5 + 0.12 * i) for i, drum in enumerate(drums) if played[i]]
        hits.append(Hit(0, "crash", 0.7))
    return hits


def bass_part(song: Song, bars: int, rng: np.random.Generator) -> list[Note]:
    chords, span = chord_plan(song, bars)
    scale = [(NOTE_NAMES[song.tonic] + degree) % 12 for degree in SCALES[song.mode]]
    notes = []
    for step, length, symbol in written(song.bass_line, song, bars, span):
        now, following = chords[step // span], chords[(step // span + 1) % len(chords)]
        root = _near(now.root, 36, low=28)
        if symbol == "a":
            goal = _near(following.root, 36, low=28)
            below = [p for p in range(goal - 2, goal) if p % 12 in scale]
            pitch = below[-1] if below and rng.random() < 0.6 else goal + 2 if (goal + 2) % 12 in scale else goal + 1
        else:
            third, fifth = ((now.tones[i] - now.root) % 12 for i in (1, 2))
            pitch = root + {"r": 0, "t": third, "f": fifth if root + fifth < 48 else fifth - 12, "o": 12}[symbol]
        notes.append(Note(step, length - 0.15, pitch, 0.85 if step % 4 == 0 else 0.7))
    return notes


def chord_part(song: Song, bars: int) -> list[Note]:
    """Chords in the inversion around middle C; power chords two octaves lower where the guitar is distorted."""
    chords, span = chord_plan(song, bars)
    notes, turn = [], 0
    for step, length, symbol in written(song.comping_line, song, bars, span):
        now = chords[step // span]
        if song.comping == "distorted guitar":
            root = _near(now.root, 45, low=40)
            voicing = [root, root + 7, root + 12]
        else:
            voicing = sorted(_near(tone, 60, low=54) for tone in now.tones)
        if symbol == "u":
            ladder = [*voicing, voicing[0] + 12, *reversed(voicing[1:])]
            turn = 0 if step % span == 0 else turn + 1
            notes.append(Note(step, max(length, 3), ladder[turn % len(ladder)], 0.65))
        else:
            strength = 0.75 if step % 8 == 0 else 0.6
            notes += [Note(step, length - 0.2, pitch, strength) for pitch in voicing]
    return notes


def lead_part(song: Song, bars: int, rng: np.random.Generator) -> list[Note]:
    """A melody of motifs A A B A: a walk on the scale that meets the chord on strong beats and ends at home."""
    chords, span = chord_plan(song, bars)
    motifs = _motifs(song, rng)
    rhythm = tuple(motifs["AABA"[bar % 4] if bars > 2 else "AB"[bar % 2]] for bar in range(bars))
    low, high = (67, 86) if song.lead in ("flute", "violin", "bell", "vibraphone") else (60, 79)
    walk_of_bar: dict[str, np.ndarray] = {}
    position = _near(chords[0].tones[_pick(rng, (0, 1, 2))], (low + high) // 2, low=low)
    strokes = list(written(rhythm, song, bars))
    notes = []
    for number, (step, length, _) in enumerate(strokes):
        bar_name = rhythm[step // song.steps_per_bar]
        # The same motif keeps its contour, so that the ear hears it come back over other chords.
        contour = walk_of_bar.setdefault(bar_name, rng.choice([-2, -1, -1, 1, 1, 2, 3, -3], size=song.steps_per_bar))
        ladder = _ladder(song, chords[step // span], low, high)
        tones = [p for p in ladder if p % 12 in chords[step // span].tones]
        nearest = min(range(len(ladder)), key=lambda i: abs(ladder[i] - position))
        move = nearest + int(contour[step % song.steps_per_bar])
        move = move if 0 <= move < len(ladder) else nearest - int(contour[step % song.steps_per_bar])
        position = ladder[min(max(move, 0), len(ladder) - 1)]
        if step % 8 == 0 or length >= 4:
            position = min(tones, key=lambda p: (abs(p - position), p))
        if number == len(strokes) - 1:
            home = [p for p in ladder if p % 12 == NOTE_NAMES[song.tonic]]
            position = min(home or tones, key=lambda p: abs(p - position))
        notes.append(Note(step, length - 0.1, position, 0.85 if step % 4 == 0 else 0.7))
    return notes


def _motifs(song: Song, rng: np.random.Generator) -> dict[str, str]:
    first, second = song.style.lead_rhythms
    return {"A": _pick(rng, first), "B": _pick(rng, second)}


def _ladder(song: Song, now: Chord, low: int, high: int) -> list[int]:
    """Pitches that the melody may use over a chord: the scale, without neighbours of the chord's altered tones."""
    degrees = (PENTATONIC if song.style.pentatonic else SCALES)[song.mode]
    scale = {(NOTE_NAMES[song.tonic] + degree) % 12 for degree in degrees}
    altered = set(now.tones) - scale
    clash = {(tone + side) % 12 for tone in altered for side in (-1, 1)}
    allowed = (scale - clash) | set(now.tones)
    return [pitch for pitch in range(low, high + 1) if pitch % 12 in allowed]


def _near(pitch_class: int, centre: int, low: int) -> int:
    """The pitch of this class nearest to `centre`, not under `low`."""
    pitch = centre + (pitch_class - centre + 6) % 12 - 6
    return pitch if pitch >= low else pitch + 12


def _pick(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    return options[int(rng.integers(len(options)))]


class Clock:
    """Steps to seconds, with swing: the second half of each pair of `swing_steps` begins at share `swing` of it."""

    def __init__(self, style: Style, tempo: int) -> None:
        self.seconds_per_step = 60 / tempo / 4
        self.pair, self.swing = style.swing_steps, style.swing

    def __call__(self, step: float) -> float:
        pairs, inside = divmod(step, self.pair)
        share = inside / self.pair
        bent = 2 * share * self.swing if share < 0.5 else self.swing + (2 * share - 1) * (1 - self.swing)
        return (pairs + bent) * self.pair * self.seconds_per_step

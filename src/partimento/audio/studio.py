"""Where the parts of a loop are played and mixed, on a ring of N samples: what passes the end comes in at the start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.audio.drums import KITS
from partimento.audio.instruments import DRIVE, INSTRUMENTS, RATE, Wave, around, distort, noise
from partimento.audio.score import Clock, Hit, Note, Song, bass_part, chord_part, drum_part, lead_part
from partimento.keyed import numpy_rng

_LEVEL = 0.13  # RMS of a finished loop, about -18 dBFS
_PLACES = {"drums": (0.0, 0.5), "bass": (0.0, 0.15), "chords": (-0.35, 1.0), "lead": (0.3, 1.0)}  # pan, share of reverb
_DRUM_PLACES = {  # level, pan
    "kick": (1.5, 0.0),
    "rim": (0.6, 0.15),
    "hat": (0.45, 0.3),
    "open hat": (0.5, 0.3),
    "shaker": (0.35, -0.4),
    "ride": (0.4, -0.3),
    "crash": (0.5, 0.0),
    "high tom": (1.0, 0.25),
    "low tom": (1.0, -0.25),
}


def record(
    song: Song, bars: int, players: list[str], *, channels: int, key: tuple[str | int, ...]
) -> NDArray[np.float32]:
    """One loop [C, N], played by `players`. Each has randomness of their own, so one who rests changes no other."""
    N = round(bars * song.style.beats * 60 / song.tempo * RATE)
    levels = dict(zip(("drums", "bass", "chords", "lead"), song.style.levels, strict=True))
    hits = _hits(song, bars, key) if "drums" in players else []
    gain_N = _ducking(song, hits, N)
    dry_CN, wet_CN = np.zeros((channels, N)), np.zeros((channels, N))
    for name in players:
        pan, send = _PLACES[name]
        player = _Player(song, np.zeros((channels, N)), numpy_rng(*key, name, "plays"))
        if name == "drums":
            part_CN = player.drums(hits)
        else:
            part_CN = player.pitched(*_notes(song, bars, name, key), pan)
        if name in ("bass", "chords"):
            part_CN = part_CN * gain_N
        part_CN *= 10 ** (levels[name] / 20) / _loudness(part_CN)
        dry_CN += part_CN
        wet_CN += send * part_CN
    return _master(dry_CN + song.style.reverb * _room(wet_CN))


def _hits(song: Song, bars: int, key: tuple[str | int, ...]) -> list[Hit]:
    rng = numpy_rng(*key, "drums")
    return drum_part(song, bars, fill=bool(rng.random() < 0.6), rng=rng)


def _notes(song: Song, bars: int, name: str, key: tuple[str | int, ...]) -> tuple[str, list[Note]]:
    """The instrument and the part of one player."""
    rng = numpy_rng(*key, name)
    if name == "bass":
        return song.bass, bass_part(song, bars, rng)
    if name == "chords":
        return song.comping, chord_part(song, bars)
    return song.lead, lead_part(song, bars, rng)


class _Player:
    """Plays one part into `part_CN`."""

    def __init__(self, song: Song, part_CN: Wave, rng: np.random.Generator) -> None:
        self.song, self.part_CN, self.rng = song, part_CN, rng
        self.clock = Clock(song.style, song.tempo)

    def pitched(self, instrument: str, notes: list[Note], pan: float) -> Wave:
        play = INSTRUMENTS[instrument]
        played: dict[tuple[int, int, float], Wave] = {}
        for note in notes:
            start = self.clock(note.step)
            hold = self.clock(note.step + note.length) - start
            # Equal notes share one rendering; the samples of a pluck are the instrument's, not the player's.
            what = (note.pitch, round(hold * 1000), note.velocity)
            if what not in played:
                freq = 440 * 2 ** ((note.pitch - 69) / 12)
                tone_rng = numpy_rng("tone", instrument, *what[:2])
                played[what] = play(freq, what[1] / 1000, note.velocity, tone_rng)
            gain = note.velocity * self._human()
            self._add(played[what], start, gain, pan + 0.02 * (note.pitch - 60) * (instrument == "piano"))
        return distort(self.part_CN, DRIVE[instrument]) if instrument in DRIVE else self.part_CN

    def drums(self, hits: list[Hit]) -> Wave:
        kit = KITS[self.song.style.kit or ""]
        takes = {drum: [kit[drum](self.rng) for _ in range(3)] for drum in sorted({hit.drum for hit in hits})}
        for number, hit in enumerate(hits):
            level, pan = _DRUM_PLACES.get(hit.drum, (1.0, 0.0))
            gain = level * hit.velocity**1.3 * self._human()
            self._add(takes[hit.drum][number % 3], self.clock(hit.step), gain, pan)
        return self.part_CN

    def _add(self, wave: Wave, start: float, gain: float, pan: float) -> None:
        """Add a sound at `start` seconds, loosely timed, round the ring."""
        late = float(np.clip(self.rng.normal(0, self.song.style.loose / 1000), -0.02, 0.02))
        channels, N = self.part_CN.shape
        at = round((start + late) * RATE) % N
        if channels == 1:
            sides = [gain]
        else:  # constant power
            angle = (np.clip(pan, -1, 1) + 1) * np.pi / 4
            sides = [gain * np.sqrt(2) * np.cos(angle), gain * np.sqrt(2) * np.sin(angle)]
        done = 0
        while done < len(wave):
            n = min(len(wave) - done, N - at)
            for channel, side in enumerate(sides):
                self.part_CN[channel, at : at + n] += side * wave[done : done + n]
            done, at = done + n, 0

    def _human(self) -> float:
        return float(np.clip(1 + self.rng.normal(0, 0.02 + 0.008 * self.song.style.loose), 0.7, 1.3))


def _ducking(song: Song, hits: list[Hit], N: int) -> Wave:
    """The gain of the parts that make room for the kick."""
    gain_N, clock, depth = np.ones(N), Clock(song.style, song.tempo), song.style.ducking
    for hit in hits if depth else []:
        if hit.drum == "kick":
            n = min(N, round(0.25 * RATE))
            at = (round(clock(hit.step) * RATE) + np.arange(n)) % N
            gain_N[at] = np.minimum(gain_N[at], 1 - depth * (1 - np.arange(n) / n) ** 2)
    return gain_N


def _room(wet_CN: Wave) -> Wave:
    """A room of decaying noise, another for each side, heard round the ring."""
    N = wet_CN.shape[1]
    n = min(N, round(1.6 * RATE))
    t = np.arange(n) / RATE
    out_CN = np.empty_like(wet_CN)
    for channel, wet_N in enumerate(wet_CN):
        impulse = noise(n, 150, 5000, numpy_rng("room", channel)) * np.exp(-t / 0.28) * np.minimum(1, t / 0.012)
        impulse /= np.sqrt(np.sum(impulse**2))
        whole, size = around(wet_N, n)
        out_CN[channel] = np.fft.irfft(np.fft.rfft(whole, size) * np.fft.rfft(impulse, size), size)[n : n + N]
    return out_CN


def _loudness(part_CN: Wave) -> float:
    """RMS over the louder half of 50 ms blocks, so that a part with rests is not turned up."""
    power_N = np.square(part_CN).mean(0)
    blocks = np.sort([block.mean() for block in np.array_split(power_N, max(1, len(power_N) * 20 // RATE))])
    return float(np.sqrt(np.mean(blocks[len(blocks) // 2 :])) + 1e-9)


def _master(mix_CN: Wave) -> NDArray[np.float32]:
    """To the house level; peaks above 0.7 are bent below 0.98."""
    mix_CN = mix_CN - mix_CN.mean(1, keepdims=True)
    mix_CN = mix_CN * (_LEVEL / (np.sqrt(np.mean(mix_CN**2)) + 1e-9))
    size = np.abs(mix_CN)
    bent = 0.7 + 0.28 * np.tanh((size - 0.7) / 0.28)
    return (np.sign(mix_CN) * np.where(size > 0.7, bent, size)).astype(np.float32)

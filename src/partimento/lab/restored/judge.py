"""A restorer over held-out pairs: one flat list of records, from which every table is made anew.

A record is one wave, compared with its target: what came in, what went out, the target itself, and the subtraction
baseline. Two protocols for cleaning (one for unshifting, whose use is its training):

round trip    damaged = shifted by n and back. input: damaged; output: restored; what the network was trained for.
in use        shifted by n, restored there, and shifted back by -n, so that there is an original to compare with.
              input: the same without restoring. What `partimento shift` does; earlier restorers made this worse.
unshift       damaged = shifted by n; output: restored.

subtraction is target + (output - input): the error that was there without the restorer is taken away, and what is left
is what the restorer itself changed; it says how strongly it acts, and is the identity for one that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.audio.shift import shift
from partimento.errors import PartimentoError
from partimento.keyed import numpy_rng
from partimento.lab.restored.artifacts import Faults, faults, named
from partimento.lab.restored.held import Piece
from partimento.lab.restored.metrics import Figures, best, compare
from partimento.lab.restored.predictors import Predictor
from partimento.progress import Progress, Quiet
from partimento.training.damage import Damage

WaveCN = NDArray[np.float32]
WaveN = NDArray[np.float32]
WHO = ("input", "output", "identity", "subtraction")
ROUND_TRIP, IN_USE, UNSHIFT = "round trip", "in use", "unshift"


@dataclass(frozen=True)
class Record:
    """Figures of one wave of one piece; `lag` in samples; `faults` of what came in and went out. The four records of a
    piece under one protocol and shift have one `case`."""

    case: int
    source: str
    group: str
    kind: str
    protocol: str
    semitones: float
    who: str
    figures: Figures
    lag: int
    faults: Faults | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "faults": None if self.faults is None else named(self.faults)}


@dataclass(frozen=True)
class Triplet:
    """What is heard and seen of one case, waves [N]."""

    source: str
    kind: str
    protocol: str
    semitones: float
    input_N: WaveN
    output_N: WaveN
    target_N: WaveN


@dataclass(frozen=True)
class Judge:
    """`restore` maps float32 [C, N] at `sample_rate` to as many samples; `strides` are those that combs are looked for
    at; `shift` is (wave_CN, sample_rate, semitones) -> wave_CN."""

    restore: Callable[[WaveCN], WaveCN]
    sample_rate: int
    task: str = "clean"
    strides: Sequence[int] = ()
    predictors: Sequence[Predictor] = ()
    shift: Callable[[WaveCN, int, float], WaveCN] = field(default=shift)

    def records(
        self,
        pieces: Sequence[Piece],
        semitones: Sequence[float],
        progress: Progress | None = None,
        keep: Callable[[Triplet], None] | None = None,
    ) -> Iterator[Record]:
        """All records, piece by piece. Raises LAB032 (a predictor failed), LAB033 (the restorer made no sound)."""
        progress = progress or Quiet()
        cases = [(piece, number) for piece in pieces for number in semitones]
        case = 0
        for done, (piece, number) in enumerate(cases, 1):
            for triplet in self._triplets(piece, number):
                yield from self._compared(triplet, piece.recording.group, case)
                case += 1
                if keep is not None:
                    keep(triplet)
            progress.update(done, len(cases), source=piece.recording.source, semitones=f"{number:+g}")

    def _triplets(self, piece: Piece, semitones: float) -> Iterator[Triplet]:
        source, kind = piece.recording.source, piece.recording.kind
        damaged_N, target_N = piece.pair(semitones)
        made_N = self._restored(damaged_N, source, semitones)
        protocol = UNSHIFT if self.task == "unshift" else ROUND_TRIP
        yield Triplet(source, kind, protocol, semitones, damaged_N, made_N, target_N)
        if self.task == "unshift" or semitones == 0:  # by nothing both protocols are one
            return
        around_N, inside = piece.around(self.sample_rate)
        there_N = self.shift(around_N[None], self.sample_rate, semitones)[0]
        clean_N = self._restored(there_N, source, semitones)
        back_N, made_N = (self.shift(w[None], self.sample_rate, -semitones)[0][inside] for w in (there_N, clean_N))
        # Not at a higher rate, so that an octave up loses the top one, which nobody is asked to bring back.
        target_N = Damage("clean", self.sample_rate, full_band=False).target(around_N, semitones)[inside]
        yield Triplet(source, kind, IN_USE, semitones, back_N, made_N, target_N)

    def _restored(self, wave_N: WaveN, source: str, semitones: float) -> WaveN:
        made_N = self.restore(np.ascontiguousarray(wave_N[None], np.float32))[0]
        if made_N.shape != wave_N.shape or not np.isfinite(made_N).all():
            wrong = "NaN or infinity" if made_N.shape == wave_N.shape else f"{len(made_N)} samples of {len(wave_N)}"
            raise PartimentoError(
                "LAB033",
                f"the restorer made {wrong}",
                where=f"{source}, shifted by {semitones:+g} semitones",
                why="its weights may hold NaN, or grow what comes in beyond all bounds",
                next="evaluate an earlier checkpoint, or the other weights (--weights raw or ema)",
            )
        return made_N

    def _compared(self, of: Triplet, group: str, case: int) -> Iterator[Record]:
        waves = {
            "input": of.input_N,
            "output": of.output_N,
            "identity": of.target_N,
            "subtraction": of.target_N + (of.output_N - of.input_N),
        }
        for who, wave_N in waves.items():
            if who == "identity":
                figures, late = best(wave_N, self.sample_rate), 0
            else:
                found = compare(wave_N, of.target_N, self.sample_rate)
                figures, late = dict(found.figures), found.lag
            for predictor in self.predictors:
                figures[predictor.name] = predictor(wave_N[None], self.sample_rate)
            wrong = None
            if who in ("input", "output"):
                wrong = faults(wave_N, of.target_N, self.sample_rate, self.strides)
            yield Record(
                case, of.source, group, of.kind, of.protocol, of.semitones, who, figures, late, wrong
            )  # fmt: skip


def probes(restore: Callable[[WaveCN], WaveCN], sample_rate: int, strides: Sequence[int]) -> dict[str, Any]:
    """What comes out for 4 s of silence, white noise (-20 dB) and a sine (997 Hz, -12 dB): the level of silence, and
    faults against what went in. Lines that a network adds to everything show best where there is little else."""
    N = 4 * sample_rate
    silence = restore(np.zeros((1, N), np.float32))[0]
    given = {
        "noise": 0.1 * numpy_rng("probe").standard_normal(N),
        "sine": 0.25 * np.sin(2 * np.pi * 997 / sample_rate * np.arange(N)),
    }
    found: dict[str, Any] = {"silence_peak": float(np.abs(silence).max())}
    for name, wave_N in given.items():
        made_N = restore(wave_N[None].astype(np.float32))[0]
        found[name] = named(faults(made_N, wave_N, sample_rate, strides))
    return found

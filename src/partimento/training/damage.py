"""What a restorer is to undo: a wave shifted, and what of the original it can be asked to become again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from partimento.audio import files, shift

Wave = NDArray[np.float32]

CONTEXT_SECONDS = 0.5  # around an excerpt that is shifted by itself, so that its edges are like its middle


@dataclass(frozen=True)
class Damage:
    """clean: shifted by n semitones and back. unshift: shifted once."""

    task: Literal["clean", "unshift"]
    sample_rate: int
    full_band: bool

    def kept_hz(self, semitones: float) -> float:
        """Up to which frequency something of the original is left; half the sample rate is all of it."""
        factor = 1
        if self.task == "clean" and self.full_band:
            factor = shift.oversampling(self.sample_rate, semitones)
        return shift.kept_hz(self.sample_rate, semitones, factor)

    def limits(self, semitones: float) -> bool:
        """Whether the target of this shift is not the original itself."""
        return self.kept_hz(semitones) < min(self.sample_rate / 2, shift.AUDIBLE_HZ) - 1

    def damaged(self, wave_N: Wave, semitones: float) -> Wave:
        """Raises what audio.shift raises."""
        if semitones == 0:
            return wave_N
        if self.task == "clean":
            return shift.round_trip(wave_N[None], self.sample_rate, semitones, self.full_band)[0]
        return shift.shift(wave_N[None], self.sample_rate, semitones)[0]

    def target(self, wave_N: Wave, semitones: float) -> Wave:
        """The original without the frequencies of which the shift has left nothing: no restorer is asked to invent."""
        if not self.limits(semitones):
            return wave_N
        rate = round(2 * self.kept_hz(semitones))
        limited_N = files.resample(files.resample(wave_N[None], self.sample_rate, rate), rate, self.sample_rate)[0]
        return np.pad(limited_N[: len(wave_N)], (0, max(0, len(wave_N) - len(limited_N))))

    def excerpt(self, wave_N: Wave, semitones: float, start: int, stop: int) -> tuple[Wave, Wave]:
        """(damaged, target) of samples start..stop of a wave, shifted with half a second on both sides."""
        context = round(CONTEXT_SECONDS * self.sample_rate)
        first, last = max(0, start - context), min(len(wave_N), stop + context)
        around_N, inside = wave_N[first:last], slice(start - first, stop - first)
        return self.damaged(around_N, semitones)[inside], self.target(around_N, semitones)[inside]

"""Faults that restorers are known for, each as one figure with a threshold: pops, lines, combs, offsets, clipping.

Every detector compares what was made with its target, so that what the music itself does (a drum on the first sample,
a drone, a saturated guitar) is no fault. The thresholds are set so that plain errors (noise, a low-pass, a pitch shift
there and back) do not reach them on music without the fault; tests/lab/test_restored_artifacts.py counts how often.
Faults and names: waveform.md's account of what earlier restorers did: a pop at the start, a line in mid-spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.lab.measures import CLIP_LEVEL
from partimento.lab.restored import combs, lines
from partimento.lab.restored.metrics import Wave, is_silent

Array = NDArray[np.float64]

POP_SECONDS, EDGE_SECONDS = 0.02, 0.05
QUIET_DB = -50.0  # under the target's mean level: what is softer counts as this loud, so that its ratio means something
ONSET_SECONDS, ONSET_RATIO, ONSET_DB = 0.005, 10.0, -30.0


@dataclass(frozen=True)
class Artifact:
    """What is looked for, from where on it counts as found, and why there."""

    name: str
    title: str
    unit: str
    threshold: float
    why: str


ARTIFACTS = (
    Artifact(
        "onset_pop", "Pop at the start", "dB", 10.0,
        "the error of the first 20 ms, over the interior's: as energy, and in proportion to the target there, the "
        "lesser of both. An attack has a large error but a large target too; 10 dB more in both is heard as a click",
    ),
    Artifact("end_pop", "Pop at the end", "dB", 10.0, "the same of the last 20 ms"),
    Artifact(
        "edge_start", "First 50 ms differ", "dB", 8.0,
        "the same of the first 50 ms: padding that the network was not taught to bear",
    ),
    Artifact("edge_end", "Last 50 ms differ", "dB", 8.0, "the same of the last 50 ms"),
    Artifact(
        "line", "Standing line", "dB", 6.0,
        "the highest bin of the long-term spectrum over the median of the 9 bins each side, where the target has no "
        "such bin and less level; 6 dB is where a bin of noise, averaged so long, does not come by chance",
    ),
    Artifact(
        "comb", "Comb at the strides", "dB", 10.0,
        "lines at the multiples of rate / stride in the spectrum of the error or of its energy, over their neighbours: "
        "what upsampling by zeros leaves. 10 dB is out of reach of an error that does not know the stride",
    ),
    Artifact(
        "offset", "Offset", "dB", -40.0,
        "the median over 50 ms frames of the mean of the error, under the target's level; 1 % is heard as a click",
    ),
    Artifact(
        "clipping", "Clipping", "%", 0.1, "share of samples at 0.99 or above, beyond the target's: one in a thousand",
    ),
    Artifact(
        "pre_echo", "Pre-echo", "dB", 10.0,
        "what was made over the target in the 20 ms before a sharp attack, median over attacks; before it the ear "
        "forgives only some 5 ms",
    ),
)  # fmt: skip
BY_NAME = {artifact.name: artifact for artifact in ARTIFACTS}


@dataclass(frozen=True)
class Faults:
    """A figure for each of ARTIFACTS (None: undefined here), which of them were found, and where: the frequency of the
    highest line, the strides whose multiples it lies on, the stride of the comb."""

    figures: dict[str, float | None]
    found: tuple[str, ...]
    line_hertz: float | None
    line_strides: tuple[int, ...]
    comb_stride: int | None


def faults(made: Wave, target: Wave, sample_rate: int, strides: Sequence[int] = ()) -> Faults:
    """Figures of one channel, both [N]. Undefined where the target is silent.

    `strides` are how many samples a place of each inner level of the network stands for: its strides multiplied up, its
    hop. Raises ValueError for unequal shapes.
    """
    made_N: Array = np.asarray(made, np.float64)
    target_N: Array = np.asarray(target, np.float64)
    if made_N.shape != target_N.shape or made_N.ndim != 1 or not len(made_N):
        raise ValueError(f"faults are of two equal channels with samples: {made_N.shape}, {target_N.shape}")
    if is_silent(target_N):
        return Faults(dict.fromkeys(BY_NAME), (), None, (), None)
    error_N = made_N - target_N
    line = lines.highest(made_N, target_N, sample_rate, strides)
    comb = combs.strongest(error_N, sample_rate, strides)
    found: dict[str, float | None] = {
        "onset_pop": excess(error_N, target_N, round(POP_SECONDS * sample_rate)),
        "end_pop": excess(error_N[::-1], target_N[::-1], round(POP_SECONDS * sample_rate)),
        "edge_start": excess(error_N, target_N, round(EDGE_SECONDS * sample_rate)),
        "edge_end": excess(error_N[::-1], target_N[::-1], round(EDGE_SECONDS * sample_rate)),
        "line": None if line is None else line.excess,
        "comb": None if comb is None else comb.excess,
        "offset": offset(error_N, target_N, sample_rate),
        "clipping": 100 * float(np.mean(np.abs(made_N) >= CLIP_LEVEL) - np.mean(np.abs(target_N) >= CLIP_LEVEL)),
        "pre_echo": pre_echo(made_N, target_N, sample_rate),
    }
    reached = tuple(name for name, value in found.items() if value is not None and value > BY_NAME[name].threshold)
    return Faults(
        found,
        reached,
        line.hertz if line and "line" in reached else None,
        line.strides if line and "line" in reached else (),
        comb.stride if comb and "comb" in reached else None,
    )


def excess(error_N: Array, target_N: Array, edge: int) -> float | None:
    """By how many dB the error of the first `edge` samples is above the interior's.

    Of windows of `edge` samples: the mean energy of the error at the edge over its mean elsewhere, and its ratio to the
    target at the edge over the same ratio elsewhere (energies summed); the lesser of both. Parts of the target under
    QUIET_DB of its mean count as that loud. None for fewer than 8 windows, and where there is no error.
    """
    count = len(error_N) // edge
    if count < 8 or not error_N.any():
        return None
    error_W, target_W = (np.square(wave[: count * edge]).reshape(count, edge).mean(1) for wave in (error_N, target_N))
    target_W = np.maximum(target_W, target_W.mean() * 10 ** (QUIET_DB / 10))
    # The other edge is no interior either.
    inside = slice(1, count - 1)
    usual = max(float(error_W[inside].mean()), 1e-20)
    ratio = usual / float(target_W[inside].mean())
    edge_error = max(float(error_W[0]), 1e-20)
    return 10 * math.log10(min(edge_error / usual, edge_error / float(target_W[0]) / ratio))


def pre_echo(made_N: Array, target_N: Array, sample_rate: int) -> float | None:
    """Energy of the made wave over the target's in the 20 ms before a sharp attack: median over attacks, dB.

    An attack is a frame of 5 ms with 10 times the energy of any of the four before it, not 30 dB under the loudest
    frame. Before it the target counts as loud as 60 dB under the attack at least. None where there is no attack.
    """
    size = max(1, round(ONSET_SECONDS * sample_rate))
    made_F, target_F = (
        np.square(wave[: len(wave) // size * size]).reshape(-1, size).mean(1) for wave in (made_N, target_N)
    )
    if len(target_F) < 6:
        return None
    before_F = np.lib.stride_tricks.sliding_window_view(target_F, 4).max(1)[:-1]
    loud_F = target_F[4:]
    attacks = np.flatnonzero((loud_F > ONSET_RATIO * before_F) & (loud_F > target_F.max() * 10 ** (ONSET_DB / 10))) + 4
    # The frame before an attack may hold its beginning.
    ratios = [
        made_F[place - 4 : place - 1].mean() / max(target_F[place - 4 : place - 1].mean(), 1e-6 * target_F[place])
        for place in attacks
    ]
    return 10 * math.log10(max(float(np.median(ratios)), 1e-10)) if ratios else None


def offset(error_N: Array, target_N: Array, sample_rate: int) -> float | None:
    """The offset that stands throughout, in dB of the target's level: the median of the error's means over 50 ms, since
    a drum has a mean, too, but then is over. None for less than a second."""
    if len(error_N) < sample_rate:
        return None
    size = round(EDGE_SECONDS * sample_rate)
    standing = float(np.median(error_N[: len(error_N) // size * size].reshape(-1, size).mean(1)))
    return 20 * math.log10(max(abs(standing) / float(np.sqrt(np.square(target_N).mean())), 1e-6))


def named(found: Faults) -> dict[str, Any]:
    """The faults for a file."""
    return {
        "figures": found.figures,
        "found": list(found.found),
        "line_hertz": found.line_hertz,
        "line_strides": list(found.line_strides),
        "comb_stride": found.comb_stride,
    }

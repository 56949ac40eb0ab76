"""Pitch shifting with Signalsmith Stretch: aligned with its input in time, of its length, of any length.

The engine is new for each piece, so nothing of one signal is heard in the next. It makes up for its own delay
(`latency`), which the tests hold it to. Two things here are ours: long recordings are shifted in pieces, because the
engine counts samples in single precision and holds everything whole; and a round trip may be made at a higher rate, so
that what an octave up would push over the edge comes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import numpy as np

from partimento.audio import stream
from partimento.audio.stream import WaveCN
from partimento.errors import PartimentoError

MOST_SEMITONES = 24.0
AUDIBLE_HZ = 22050.0  # up to here a full-band round trip keeps everything

_PIECE = 5 << 19  # samples that a piece adds; with all around it under 2**22, where the engine's counts are still exact
_OVERLAP_SECONDS = 2.0  # of two pieces, somewhere in which one passes into the next
_FADE_SECONDS = 0.05
_CONTEXT_SECONDS = 0.15  # one block and one interval of the engine's preset: what a sample hears on each side
_SEED = 1  # the engine draws at random only where it stretches time; seeded all the same


def shift(wave_CN: WaveCN, sample_rate: int, semitones: float) -> WaveCN:
    """The wave [C, N] with its pitch moved by `semitones`, N samples again, each sound at its time.

    0 semitones give the input bit for bit. What leaves the band (above half the sample rate) is lost. Left and right
    (channels 0 and 1, 2 and 3, ...) keep their phase to each other. Peaks may exceed 1; nothing is clipped.
    Raises AUDIO040 (NaN or infinity), AUDIO041 (semitones beyond +-24), AUDIO042 (the engine is not installed).
    """
    return _whole(wave_CN, sample_rate, (semitones,), 1)


def shift_stream(blocks: Iterable[WaveCN], sample_rate: int, semitones: float) -> Iterator[WaveCN]:
    """As `shift`, from blocks [C, n] to blocks, in memory that does not grow. The samples are those of `shift`, however
    they are cut into blocks. About a minute of sound is taken in before the first comes out. Raises as `shift`."""
    return _stream(blocks, sample_rate, (semitones,), 1)


def round_trip(wave_CN: WaveCN, sample_rate: int, semitones: float, full_band: bool = True) -> WaveCN:
    """The wave [C, N] shifted by `semitones` and back: what shifting does to sound, at the pitch that it had.

    `full_band` makes both shifts at a higher rate where the first would lose something audible. Else frequencies above
    `kept_hz` are gone. Raises as `shift`.
    """
    factor = oversampling(sample_rate, semitones) if full_band else 1
    return _whole(wave_CN, sample_rate, (semitones, -semitones), factor)


def checked_semitones(semitones: float) -> float:
    """The same number. Raises AUDIO041."""
    if not abs(semitones) <= MOST_SEMITONES:  # so that NaN is refused
        raise PartimentoError(
            "AUDIO041",
            f"a shift of {semitones:g} semitones is not possible",
            why=f"it goes from -{MOST_SEMITONES:.0f} to {MOST_SEMITONES:.0f}, two octaves each way",
            next="choose a smaller one",
        )
    return semitones


def oversampling(sample_rate: int, semitones: float) -> int:
    """By what power of two the rate must be higher for a round trip to keep all frequencies up to 22.05 kHz."""
    needed = 2 * min(sample_rate / 2, AUDIBLE_HZ) * 2 ** (semitones / 12)
    return int(2 ** max(0, math.ceil(math.log2(needed / sample_rate) - 1e-9)))


def kept_hz(sample_rate: int, semitones: float, factor: int = 1) -> float:
    """Up to which frequency of the input a shift at `factor` times the rate keeps it; half the sample rate is all."""
    return sample_rate / 2 * min(1.0, factor / 2 ** (semitones / 12))


def latency(sample_rate: int) -> int:
    """Samples by which the engine's output would lag behind its input, and which are made up for."""
    engine = _engine(1, sample_rate, 0.0)
    return int(engine.inputLatency() + engine.outputLatency())


def engine_version() -> str:
    """For provenance. Other versions, and other processors, make other samples. Raises AUDIO042."""
    try:
        return f"Signalsmith Stretch (python-stretch {metadata.version('python-stretch')})"
    except metadata.PackageNotFoundError as err:
        raise _missing(err) from err


def _whole(wave_CN: WaveCN, sample_rate: int, steps: tuple[float, ...], factor: int) -> WaveCN:
    blocks = list(_stream([np.asarray(wave_CN, np.float32)], sample_rate, steps, factor))
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((wave_CN.shape[0], 0), np.float32)


def _stream(blocks: Iterable[WaveCN], sample_rate: int, steps: tuple[float, ...], factor: int) -> Iterator[WaveCN]:
    for semitones in steps:
        checked_semitones(semitones)
    blocks = _checked(blocks)
    if not any(steps):
        return blocks
    rate = sample_rate * factor
    _engine(1, rate, 0.0)  # raises now, and not at the first block
    shifted = _pieces(stream.resample(blocks, sample_rate, rate), rate, steps)
    return stream.resample(shifted, rate, sample_rate)


def _checked(blocks: Iterable[WaveCN]) -> Iterator[WaveCN]:
    position = 0
    for block_CN in blocks:
        if not np.isfinite(block_CN).all():
            bad = position + int(np.argmin(np.isfinite(block_CN).all(0)))
            raise PartimentoError(
                "AUDIO040",
                f"sample {bad} is not a number",
                why="NaN and infinity cannot be shifted, and would silence all that follows",
                next="find what made them; a model that diverged does this",
                sample=bad,
            )
        position += block_CN.shape[1]
        yield block_CN


def _pieces(blocks: Iterable[WaveCN], rate: int, steps: tuple[float, ...]) -> Iterator[WaveCN]:
    """Shift in pieces that overlap, each with what is around it. Where a piece ends depends on positions alone."""
    context = round(_CONTEXT_SECONDS * rate) * len(steps)
    overlap, fade = round(_OVERLAP_SECONDS * rate), round(_FADE_SECONDS * rate)
    needed = context + _PIECE + overlap + context
    held: list[WaveCN] = []
    waiting = 0
    # What is before a recording is silence, too: an attack at its first sample stays one.
    ahead_CN: WaveCN | None = None
    last_CN: WaveCN | None = None
    for block_CN in blocks:
        held.append(block_CN)
        waiting += block_CN.shape[1]
        if ahead_CN is None:
            ahead_CN = np.zeros((block_CN.shape[0], context), np.float32)
        if ahead_CN.shape[1] + waiting < needed:
            continue
        ahead_CN, held, waiting = np.concatenate([ahead_CN, *held], axis=1), [], 0
        while ahead_CN.shape[1] >= needed:
            made_CN = _apply(ahead_CN[:, :needed], rate, steps)[:, context:-context]
            if last_CN is not None:
                made_CN = _joined(last_CN, made_CN, fade)
            yield made_CN[:, :_PIECE]
            last_CN, ahead_CN = made_CN[:, _PIECE:].copy(), ahead_CN[:, _PIECE:]
    if ahead_CN is None:
        return
    ahead_CN = np.concatenate([ahead_CN, *held, np.zeros((ahead_CN.shape[0], context), np.float32)], axis=1)
    made_CN = _apply(ahead_CN, rate, steps)[:, context:-context]
    yield made_CN if last_CN is None else _joined(last_CN, made_CN, fade)


def _apply(wave_CN: WaveCN, rate: int, steps: tuple[float, ...]) -> WaveCN:
    groups = []
    for first in range(0, wave_CN.shape[0], 2):  # the engine takes one or two channels
        group_CN = wave_CN[first : first + 2]
        for semitones in steps:
            engine = _engine(group_CN.shape[0], rate, semitones)
            # It reads memory as if it were in order, and as many channels as it was told of.
            group_CN = engine.process(np.ascontiguousarray(group_CN, np.float32))
        groups.append(group_CN)
    return np.concatenate(groups)


def _joined(before_CN: WaveCN, after_CN: WaveCN, fade: int) -> WaveCN:
    """`after_CN` with `before_CN` over its beginning, and a fade where the two differ least.

    Both are the same sound, but the phases of a shifted sound depend on where the shifter began. Gains are such that
    the power stays even, whatever the correlation of the two.
    """
    overlap = before_CN.shape[1]
    head_CN = after_CN[:, :overlap]
    differing = np.cumsum(np.concatenate([[0.0], np.square(before_CN - head_CN, dtype=np.float64).sum(0)]))
    place = int(np.argmin(differing[fade:] - differing[:-fade]))
    inside = slice(place, place + fade)
    old_CN, new_CN = before_CN[:, inside].astype(np.float64), head_CN[:, inside].astype(np.float64)
    powers = math.sqrt(float(np.square(old_CN).sum() * np.square(new_CN).sum()))
    alike = max(0.0, float((old_CN * new_CN).sum()) / powers) if powers > 0 else 0.0
    rise_N = 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / fade)
    level_N = 1 / np.sqrt(rise_N**2 + (1 - rise_N) ** 2 + 2 * alike * rise_N * (1 - rise_N))
    faded_CN = (level_N * ((1 - rise_N) * old_CN + rise_N * new_CN)).astype(np.float32)
    return np.concatenate([before_CN[:, :place], faded_CN, after_CN[:, place + fade :]], axis=1)


def _engine(channels: int, rate: int, semitones: float) -> Any:
    try:
        from python_stretch import Signalsmith
    except ImportError as err:
        raise _missing(err) from err
    engine = Signalsmith.Stretch(_SEED)
    engine.preset(channels, float(rate))
    engine.setTransposeSemitones(float(semitones))
    return engine


def _missing(err: Exception) -> PartimentoError:
    return PartimentoError(
        "AUDIO042",
        "the pitch shifter is not installed",
        why=str(err),
        next="pip install 'python-stretch>=0.3'",
    )

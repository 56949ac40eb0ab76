"""What an encode would do: lengths from the files' headers, time from coding two seconds of noise. Writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partimento.audio import containers
from partimento.audio.declared import Fault
from partimento.codecs.codec import Codec, encode_whole
from partimento.codecs.inputs import Unit
from partimento.tokens import shards

_TRIAL_SECONDS = 2.0


@dataclass(frozen=True)
class Estimate:
    """Of units not made yet: recordings that can be read, rejects by code, seconds of audio, frames, bytes of shards,
    recordings that do not say how long they are (and are not in the sums)."""

    clips: int
    rejects: Counter[str]
    seconds: float
    frames: int
    bytes: int
    unknown: int


def of(units: Sequence[Unit], codec: Codec) -> Estimate:
    spec = codec.spec
    rejects: Counter[str] = Counter()
    clips = frames = unknown = 0
    seconds = 0.0
    for unit in units:
        for file in unit.files:
            if file.refused:
                rejects[file.refused[0]] += 1
                continue
            try:
                declared = containers.inspect(file.path)
            except Fault as fault:
                rejects[fault.code] += 1
                continue
            clips += 1
            length = declared.frames or declared.least
            if not length or not declared.sample_rate:
                unknown += 1
                continue
            seconds += length / declared.sample_rate
            frames += spec.frames(round(length / declared.sample_rate * spec.sample_rate))
    size = frames * spec.codebooks * shards.CODES.itemsize + shards.HEADER_BYTES * len(units) + 4 * clips  # crc32
    return Estimate(clips, rejects, seconds, frames, size, unknown)


def speed(codec: Codec) -> float:
    """How many times faster than real time the codec codes, in this process."""
    samples = round(_TRIAL_SECONDS * codec.spec.sample_rate)
    noise_CN = np.random.default_rng(0).standard_normal((codec.spec.channels, samples)).astype(np.float32) * 0.1
    encode_whole(codec, noise_CN)  # the first call pays for much that the others do not
    before = time.monotonic()
    encode_whole(codec, noise_CN)
    return _TRIAL_SECONDS / max(time.monotonic() - before, 1e-6)

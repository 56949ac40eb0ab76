"""How well a codec reproduces recordings: distances, use of its codebooks, speed. Needs no pretrained weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partimento.audio.spectra import mel7, si_sdr
from partimento.codecs.codec import Codec, decode_whole, encode_whole

LOW_PASS_HZ = 2000.0


@dataclass(frozen=True)
class Measured:
    """Means over recordings. `entropy_K` is in bits of the pooled codes; speeds are seconds of audio a second."""

    recordings: int
    seconds: float
    mel7: float
    mel7_worst: float
    si_sdr: float
    """Median in dB: one silent or phase-inverted recording would rule a mean."""
    mel7_low_pass: float
    """The same distance for the same audio without anything above 2 kHz, as a yardstick."""
    entropy_K: list[float]
    used_K: list[float]
    """Share of each book's codes that occur."""
    encode_speed: float
    decode_speed: float

    def to_json(self) -> dict[str, Any]:
        def rounded(value: Any) -> Any:
            if isinstance(value, list):
                return [rounded(v) for v in value]
            return round(value, 3) if isinstance(value, float) else value

        return {name: rounded(value) for name, value in self.__dict__.items()}


@dataclass(frozen=True)
class Passage:
    """One recording's way through a codec."""

    seconds: float
    mel7: float
    mel7_low_pass: float
    si_sdr: float
    codes_TK: NDArray[np.int64]
    encoding: float
    decoding: float


def measure(codec: Codec, waves: Sequence[NDArray[np.float32]]) -> Measured:
    """Encode and decode each mono wave [N] at the codec's rate; at least one is needed."""
    return summary(codec, [passage(codec, wave_N) for wave_N in waves])


def passage(codec: Codec, wave_N: NDArray[np.float32]) -> Passage:
    """Encode, decode and compare one mono wave [N]."""
    rate = codec.spec.sample_rate
    began = time.perf_counter()
    codes_TK = encode_whole(codec, wave_N[None])
    middle = time.perf_counter()
    back_1N = torch.from_numpy(decode_whole(codec, codes_TK, samples=len(wave_N)))
    ended = time.perf_counter()
    original_1N = torch.from_numpy(wave_N)[None]
    return Passage(
        seconds=len(wave_N) / rate,
        mel7=float(mel7(back_1N, original_1N, rate)),
        mel7_low_pass=float(mel7(low_pass(original_1N, rate), original_1N, rate)),
        si_sdr=float(si_sdr(back_1N, original_1N)),
        codes_TK=codes_TK,
        encoding=middle - began,
        decoding=ended - middle,
    )


def summary(codec: Codec, passages: Sequence[Passage]) -> Measured:
    """Means over passages; the codes are pooled."""
    seconds = sum(p.seconds for p in passages)
    entropy_K, used_K = usage(np.concatenate([p.codes_TK for p in passages]), codec.spec.cardinalities)
    return Measured(
        recordings=len(passages),
        seconds=seconds,
        mel7=float(np.mean([p.mel7 for p in passages])),
        mel7_worst=max(p.mel7 for p in passages),
        si_sdr=float(np.nanmedian([p.si_sdr for p in passages])),
        mel7_low_pass=float(np.mean([p.mel7_low_pass for p in passages])),
        entropy_K=entropy_K,
        used_K=used_K,
        encode_speed=seconds / sum(p.encoding for p in passages),
        decode_speed=seconds / sum(p.decoding for p in passages),
    )


def usage(codes_TK: NDArray[np.integer], cardinalities: Sequence[int]) -> tuple[list[float], list[float]]:
    """Entropy in bits of each codebook's codes, and the share of its codes that occur.

    T frames cannot show more than log2 T bits, whatever the codebook could hold.
    """
    entropy_K, used_K = [], []
    for k, cardinality in enumerate(cardinalities):
        counts = np.bincount(codes_TK[:, k], minlength=cardinality)
        share = counts[counts > 0] / counts.sum()
        entropy_K.append(float(-(share * np.log2(share)).sum()))
        used_K.append(float((counts > 0).mean()))
    return entropy_K, used_K


def low_pass(wave_BN: torch.Tensor, sample_rate: int, above: float = LOW_PASS_HZ) -> torch.Tensor:
    """The wave without its frequencies above `above` Hz (an ideal filter on the whole wave)."""
    spectrum = torch.fft.rfft(wave_BN)
    frequencies = torch.fft.rfftfreq(wave_BN.shape[-1], 1 / sample_rate)
    return torch.fft.irfft(spectrum * (frequencies <= above), wave_BN.shape[-1])

"""How well a codec reproduces recordings: distances, use of its codebooks, seams, speed. Needs no other model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partimento.audio.spectra import mel7, si_sdr
from partimento.codecs.codec import Codec, decode_whole, encode_stream, encode_whole
from partimento.codecs.layout import channel_books, coarser
from partimento.tokens import entropy

LOW_PASS_HZ = 2000.0
PASSAGE_SECONDS = 60  # longer recordings are measured by the minute
SAMPLE_SECONDS = 10  # of each recording, for what is costly: seams and coarser rates
SEAM_CHUNK_SECONDS = 1.0


@dataclass(frozen=True)
class Measured:
    """Means over passages (and channels). `entropy_K` is in bits of the pooled codes; speeds are audio s a second."""

    recordings: int
    seconds: float
    mel7: float
    mel7_worst: float
    mse: float
    mae: float
    si_sdr: float | None
    """Median in dB: one silent or phase-inverted recording would rule a mean."""
    lag: float | None
    """Median of the samples by which the result comes late. Not 0: a codec that shifts, and si_sdr says little."""
    mel7_low_pass: float
    """The same distance for the same audio without anything above 2 kHz, as a yardstick."""
    entropy_K: list[float]
    perplexity_K: list[float]
    """2 to the entropy: as many codes, equally often, would tell as much."""
    used_K: list[float]
    """Share of each book's codes that occur."""
    encode_speed: float
    decode_speed: float

    def to_json(self) -> dict[str, Any]:
        return _rounded(self.__dict__)


@dataclass(frozen=True)
class Seams:
    """Codes made in chunks of a second, held against codes made in one pass."""

    seams: int
    equal: float
    """Share of equal codes."""
    equal_worst_seam: float | None
    """The lowest share in the frames around any one seam; None without a seam."""


@dataclass(frozen=True)
class Checked:
    """What `partimento codec check` finds."""

    measured: Measured
    mel7_by_books: dict[int, float]
    """mel7 of the first 10 s with the first 1, 2, 4, ... books of each channel alone."""
    seams: Seams

    def to_json(self) -> dict[str, Any]:
        by_books = {str(books): value for books, value in self.mel7_by_books.items()}
        return {**self.measured.to_json(), **_rounded({"mel7_by_books": by_books, **self.seams.__dict__})}


@dataclass(frozen=True)
class Passage:
    """One passage's way through a codec."""

    seconds: float
    mel7: float
    mel7_low_pass: float
    mse: float
    mae: float
    si_sdr: float | None
    lag: int | None
    codes_TK: NDArray[np.int64]
    encoding: float
    decoding: float


def measure(codec: Codec, waves: Iterable[NDArray[np.float32]]) -> Measured:
    """Encode and decode each wave [C, N], or mono [N], at the codec's rate; at least one is needed."""
    found = [[passage(codec, part) for part in _minutes(codec, wave)] for wave in waves]
    return summary(codec, [one for parts in found for one in parts], recordings=len(found))


def check(codec: Codec, waves: Iterable[NDArray[np.float32]]) -> Checked:
    """`measure`, and on the first 10 s of each recording: the gain of each further book, and the seams.

    `waves` is gone through once; of each recording only codes and figures are kept.
    """
    passages: list[Passage] = []
    by_books: list[dict[int, float]] = []
    seamed: list[Seams] = []
    for wave in waves:
        passages += [passage(codec, part) for part in _minutes(codec, wave)]
        begin_CN = np.atleast_2d(wave)[:, : SAMPLE_SECONDS * codec.spec.sample_rate]
        by_books.append(books_gain(codec, begin_CN))
        seamed.append(seams(codec, begin_CN))
    worst = [one.equal_worst_seam for one in seamed if one.equal_worst_seam is not None]
    return Checked(
        summary(codec, passages, recordings=len(seamed)),
        {books: float(np.mean([one[books] for one in by_books])) for books in by_books[0]},
        Seams(sum(s.seams for s in seamed), float(np.mean([s.equal for s in seamed])), min(worst, default=None)),
    )


def passage(codec: Codec, wave: NDArray[np.float32]) -> Passage:
    """Encode, decode and compare one wave [C, N], or mono [N]."""
    wave_CN, rate = np.atleast_2d(wave), codec.spec.sample_rate
    began = time.perf_counter()
    codes_TK = encode_whole(codec, wave_CN)
    middle = time.perf_counter()
    back_CN = torch.from_numpy(decode_whole(codec, codes_TK, samples=wave_CN.shape[1]))
    ended = time.perf_counter()
    original_CN = torch.from_numpy(np.ascontiguousarray(wave_CN))
    ratios = [float(one) for one in si_sdr(back_CN, original_CN) if not one.isnan()]
    return Passage(
        seconds=wave_CN.shape[1] / rate,
        mel7=float(mel7(back_CN, original_CN, rate).mean()),
        mel7_low_pass=float(mel7(low_pass(original_CN, rate), original_CN, rate).mean()),
        mse=float((back_CN - original_CN).square().mean()),
        mae=float((back_CN - original_CN).abs().mean()),
        si_sdr=float(np.mean(ratios)) if ratios else None,
        lag=lag(back_CN, original_CN, int(codec.spec.hop)),
        codes_TK=codes_TK,
        encoding=middle - began,
        decoding=ended - middle,
    )


def summary(codec: Codec, passages: Sequence[Passage], *, recordings: int | None = None) -> Measured:
    """Means over passages; the codes are pooled. Without `recordings` every passage is one."""
    seconds = sum(p.seconds for p in passages)
    entropy_K, used_K = usage(np.concatenate([p.codes_TK for p in passages]), codec.spec.cardinalities)
    ratios = [p.si_sdr for p in passages if p.si_sdr is not None]
    lags = [p.lag for p in passages if p.lag is not None]
    return Measured(
        recordings=len(passages) if recordings is None else recordings,
        seconds=seconds,
        mel7=float(np.mean([p.mel7 for p in passages])),
        mel7_worst=max(p.mel7 for p in passages),
        mse=float(np.mean([p.mse for p in passages])),
        mae=float(np.mean([p.mae for p in passages])),
        si_sdr=float(np.median(ratios)) if ratios else None,
        lag=float(np.median(lags)) if lags else None,
        mel7_low_pass=float(np.mean([p.mel7_low_pass for p in passages])),
        entropy_K=entropy_K,
        perplexity_K=[2**bits for bits in entropy_K],
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
        (count_V,) = entropy.counts(codes_TK[:, k : k + 1], cardinality)
        entropy_K.append(float(entropy.entropy(count_V)) / math.log(2))
        used_K.append(float(entropy.coverage(count_V)))
    return entropy_K, used_K


def books_gain(codec: Codec, wave_CN: NDArray[np.float32]) -> dict[int, float]:
    """mel7 with the first 1, 2, 4, ... books of each channel, and with all."""
    most = max(channel_books(codec.spec))
    codes_TK = encode_whole(codec, wave_CN)
    original_CN = torch.from_numpy(np.ascontiguousarray(wave_CN))
    found = {}
    for books in [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]:
        fewer, columns = coarser(codec, books)
        back_CN = torch.from_numpy(decode_whole(fewer, codes_TK[:, columns], samples=wave_CN.shape[1]))
        found[books] = float(mel7(back_CN, original_CN, codec.spec.sample_rate).mean())
    return found


@torch.no_grad()
def seams(codec: Codec, wave_CN: NDArray[np.float32], chunk_seconds: float = SEAM_CHUNK_SECONDS) -> Seams:
    """How many of the codes made in chunks equal those of one pass, in all and around each seam."""
    whole_TK = codec.encode(torch.from_numpy(np.ascontiguousarray(wave_CN))[None])[0].cpu().numpy()
    pieces = list(encode_stream(codec, [wave_CN], chunk_seconds))
    equal_TK = np.concatenate(pieces) == whole_TK
    around = codec.context_frames or 8
    places = np.cumsum([len(piece) for piece in pieces])[:-1]
    worst = [float(equal_TK[max(0, place - around) : place + around].mean()) for place in places]
    return Seams(len(places), float(equal_TK.mean()), min(worst, default=None))


def lag(wave_CN: torch.Tensor, reference_CN: torch.Tensor, most: int) -> int | None:
    """By how many samples, at most `most`, the wave comes late (cross-correlation); None if either is silent."""
    size = 1 << (wave_CN.shape[1] + most).bit_length()
    product = torch.fft.rfft(wave_CN, size) * torch.fft.rfft(reference_CN, size).conj()
    correlation = torch.fft.irfft(product, size).sum(0)
    near = torch.cat([correlation[size - most :], correlation[: most + 1]])
    return int(near.argmax()) - most if near.abs().max() > 0 else None


def low_pass(wave_BN: torch.Tensor, sample_rate: int, above: float = LOW_PASS_HZ) -> torch.Tensor:
    """The wave without its frequencies above `above` Hz (an ideal filter on the whole wave)."""
    spectrum = torch.fft.rfft(wave_BN)
    frequencies = torch.fft.rfftfreq(wave_BN.shape[-1], 1 / sample_rate)
    return torch.fft.irfft(spectrum * (frequencies <= above), wave_BN.shape[-1])


def _minutes(codec: Codec, wave: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Equal parts of at most a minute."""
    parts = max(1, math.ceil(wave.shape[-1] / (PASSAGE_SECONDS * codec.spec.sample_rate)))
    yield from np.array_split(np.atleast_2d(wave), parts, axis=-1)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value

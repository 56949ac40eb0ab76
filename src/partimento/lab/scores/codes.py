"""The codes of files against a pack: each file beside held-out windows of its own length, and all files pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.audio import files
from partimento.sampling import probe
from partimento.tokens import entropy
from partimento.tokens.pack import Pack

YARDSTICK_WINDOWS = 32
COUNTED_FRAMES = 2_000_000  # of the training codes, whole clips in keyed order; over six hours at 86 frames/s


@dataclass(frozen=True)
class CodeFigures:
    """Means over windows of equal length; lists hold one value a codebook. Entropy and KL in nats."""

    entropy_K: list[float | None]
    coverage_K: list[float | None]
    unigram_kl_K: list[float | None]
    repetition_K: list[float | None]
    repetition_frames: float | None


@dataclass(frozen=True)
class Codes:
    """The codes of a file beside the yardstick: held-out windows of the pack, of equal length, measured the same way.

    A short sound cannot show the statistics of hours of music, so its KL from them is never 0; held-out music of the
    same length shows how much of it is only that. `windows` and `yardstick_windows` count what was averaged.
    """

    frames: int
    windows: int
    figures: CodeFigures
    yardstick: CodeFigures
    yardstick_windows: int


@dataclass(frozen=True)
class PooledKL:
    """KL (nats) of the codes of a set, counted together, from the training codes; beside held-out codes of the pack, as
    many frames of them (or all there are: `yardstick_frames`), counted the same way."""

    code_kl: float
    code_kl_K: list[float]
    frames: int
    yardstick_kl: float
    yardstick_kl_K: list[float]
    yardstick_frames: int


class PackCodes:
    """A pack to compare with: its codec, the counts of its training codes, its held-out windows. Raises PACK009."""

    def __init__(self, pack: Pack, codec: str | None) -> None:
        from partimento.codecs.codec import open_like

        self.pack, self.spec = pack, pack.spec
        self.codec = open_like(pack.spec, name=codec)
        self.counts_KV = self._count()
        self.held_out = pack.split("valid")
        self._yardsticks: dict[int, tuple[CodeFigures, int]] = {}

    def compare(self, wave_CN: NDArray[np.float32], sample_rate: int) -> tuple[Codes, NDArray[np.int64]]:
        """What is shown of a file, and the counts [K, V] of its codes."""
        from partimento.codecs.codec import encode_whole
        from partimento.codecs.layout import arrange

        heard_CN = files.resample(wave_CN, sample_rate, self.spec.sample_rate)
        codes_TK = encode_whole(self.codec, arrange(heard_CN, self.spec.layout).wave_CN)
        # Both sides are measured in windows of one length; a file longer than every held-out clip is cut into tiles.
        length = min(len(codes_TK), int(self.pack.clips.frames[self.held_out].max()))
        tiles = [codes_TK[first : first + length] for first in range(0, len(codes_TK) - length + 1, length)]
        if length not in self._yardsticks:
            windows = self._windows(length)
            self._yardsticks[length] = self._figures(windows), len(windows)
        yardstick, windows_seen = self._yardsticks[length]
        found = Codes(length, len(tiles), self._figures(tiles), yardstick, windows_seen)
        return found, entropy.counts(codes_TK, self.spec.cardinality)

    def _windows(self, length: int) -> list[NDArray[np.integer]]:
        """Evenly spread windows of the held-out clips."""
        places = [
            (int(clip), first)
            for clip in self.held_out
            for first in range(0, int(self.pack.clips.frames[clip]) - length + 1, length)
        ]
        chosen = np.unique(np.linspace(0, len(places) - 1, YARDSTICK_WINDOWS).round().astype(int))
        return [self.pack.read(clip, first, first + length) for clip, first in (places[i] for i in chosen)]

    def _figures(self, windows: Sequence[NDArray[np.integer]]) -> CodeFigures:
        probes = [probe.probe(codes_TK, self.spec.cardinality, self.counts_KV) for codes_TK in windows]

        def means(name: str) -> list[float | None]:
            return [_mean(column) for column in zip(*(getattr(item, name) for item in probes), strict=True)]

        return CodeFigures(
            means("entropy_K"),
            means("coverage_K"),
            means("unigram_kl_K"),
            means("repetition_K"),
            _mean([item.repetition_frames for item in probes]),
        )

    def _count(self) -> NDArray[np.int64]:
        clips = self.pack.split("train")
        counts_KV = np.zeros((self.spec.codebooks, self.spec.cardinality), dtype=np.int64)
        for index in range(len(clips)):
            clip = int(clips[keyed.permute(index, len(clips), "score")])
            counts_KV += entropy.counts(self.pack.read(clip), self.spec.cardinality)
            if counts_KV[0].sum() >= COUNTED_FRAMES:
                break
        return counts_KV

    def pooled(self, counts_KV: NDArray[np.int64]) -> PooledKL | None:
        """Of the counts of a set; None where there is no code."""
        frames = int(counts_KV[0].sum())
        if not frames:
            return None
        held_KV, left = np.zeros_like(counts_KV), frames
        for index in range(len(self.held_out)):
            clip = int(self.held_out[keyed.permute(index, len(self.held_out), "yardstick")])
            length = min(left, int(self.pack.clips.frames[clip]))
            held_KV += entropy.counts(self.pack.read(clip, 0, length), self.spec.cardinality)
            left -= length
            if not left:
                break
        kl_K, held_K = (entropy.divergence(counts, self.counts_KV) for counts in (counts_KV, held_KV))
        return PooledKL(float(kl_K.mean()), kl_K.tolist(), frames, float(held_K.mean()), held_K.tolist(), frames - left)


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else None

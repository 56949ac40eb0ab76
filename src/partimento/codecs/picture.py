"""What a codec does to one recording, as a picture: waveforms, spectrograms, the error's spectrum, use of the books."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from partimento import commit
from partimento.audio.spectra import stft
from partimento.codecs.codec import Codec, decode_whole, encode_whole
from partimento.codecs.layout import channel_books
from partimento.codecs.measure import SAMPLE_SECONDS, usage

WINDOW, HOP = 1024, 256
QUIETEST_DB = -100.0


def draw(file: Path, codec: Codec, wave_CN: NDArray[np.float32], title: str) -> None:
    """Write the PNG `file` of the first 10 s of a recording [C, N] at the codec's rate. Raises SYS002 (the disk)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rate = codec.spec.sample_rate
    wave_CN = wave_CN[:, : SAMPLE_SECONDS * rate]
    codes_TK = encode_whole(codec, wave_CN)
    back_CN = decode_whole(codec, codes_TK, samples=wave_CN.shape[1])
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n{codec.spec.codec}, {codec.spec.layout}, {codec.spec.codebooks} codebooks", fontsize=11)
    axes = figure.subplot_mosaic([["wave", "wave_back"], ["spec", "spec_back"], ["error", "usage"]])
    for name, heard_CN, words in (("wave", wave_CN, "original"), ("wave_back", back_CN, "through the codec")):
        axes[name].plot(np.arange(heard_CN.shape[1]) / rate, heard_CN.mean(0), linewidth=0.3, color="#2b5c8a")
        axes[name].set(title=words, xlabel="s", ylim=(-1, 1))
    for name, heard_CN in (("spec", wave_CN), ("spec_back", back_CN)):
        level_FT = _level(_magnitude(heard_CN.mean(0)))
        seconds = heard_CN.shape[1] / rate
        axes[name].imshow(
            level_FT, origin="lower", aspect="auto", extent=(0, seconds, 0, rate / 2000), vmin=QUIETEST_DB, vmax=0
        )
        axes[name].set(xlabel="s", ylabel="kHz")
    _spectra(axes["error"], rate, wave_CN, back_CN)
    _usage(axes["usage"], codec, codes_TK)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=110)
    commit.data(file, encoded.getvalue())


def _spectra(axes, rate: int, wave_CN: NDArray[np.float32], back_CN: NDArray[np.float32]) -> None:  # type: ignore[no-untyped-def]
    """Long-term spectra, means over channels and time of the power."""
    kilohertz = np.fft.rfftfreq(WINDOW, 1000 / rate)
    for heard_CN, words, colour in (
        (wave_CN, "original", "#2b5c8a"),
        (back_CN, "through the codec", "#d9822b"),
        (back_CN - wave_CN, "difference", "#8a8a8a"),
    ):
        power_F = np.mean([np.square(_magnitude(wave_N)).mean(-1) for wave_N in heard_CN], axis=0)
        axes.plot(kilohertz, _level(np.sqrt(power_F)), label=words, color=colour, linewidth=0.9)
    axes.set(title="spectra", xlabel="kHz", ylabel="dB", ylim=(QUIETEST_DB - 20, 10))
    axes.legend(fontsize=8)


def _usage(axes, codec: Codec, codes_TK: NDArray[np.int64]) -> None:  # type: ignore[no-untyped-def]
    """Of each book: the share of its codes that occur, and its entropy as a share of what it could be."""
    entropy_K, used_K = usage(codes_TK, codec.spec.cardinalities)
    bits_K = np.log2(codec.spec.cardinalities)
    places = np.arange(1, codec.spec.codebooks + 1)
    axes.bar(places - 0.2, used_K, 0.4, label="codes that occur", color="#2b5c8a")
    axes.bar(places + 0.2, entropy_K / bits_K, 0.4, label="entropy / log2 V", color="#d9822b")
    for end in np.cumsum(channel_books(codec.spec))[:-1]:
        axes.axvline(end + 0.5, color="#8a8a8a", linewidth=0.8)
    axes.set(title=f"use of the codebooks ({len(codes_TK)} frames)", xlabel="codebook", ylim=(0, 1))
    axes.legend(fontsize=8)


def _magnitude(wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """[F, T], a sine of amplitude 1 being 1."""
    spectrum = stft(torch.from_numpy(np.ascontiguousarray(wave_N))[None], WINDOW, HOP)[0].abs()
    magnitude: NDArray[np.float32] = (spectrum * (4 / WINDOW)).numpy()
    return magnitude


def _level(magnitude: NDArray[np.float32]) -> NDArray[np.float32]:
    level: NDArray[np.float32] = 20 * np.log10(np.maximum(magnitude, 10 ** (QUIETEST_DB / 20 - 1)))
    return level

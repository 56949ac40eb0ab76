"""Pictures of a sound: a spectrogram as palette PNG, the waveform as one SVG path. numpy only, drawn when asked."""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = (600, 150)
RANGE_DB = 80.0
LOWEST_HZ = 40.0


def spectrogram_png(wave_CN: NDArray[np.floating[Any]], sample_rate: int, size: tuple[int, int] = SIZE) -> str:
    """Log-frequency spectrogram (40 Hz to Nyquist, 80 dB under the loudest point) as a base64 palette PNG."""
    from matplotlib import colormaps
    from PIL import Image

    width, height = size
    levels = _log_spectrum(np.atleast_2d(wave_CN).mean(0), sample_rate, width, height)
    image = Image.fromarray(np.round(levels * 255).astype(np.uint8)[::-1], mode="P")
    image.putpalette(np.round(colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def frequency_ticks(sample_rate: int) -> list[tuple[float, str]]:
    """(height as a share of the spectrogram, label) of the round frequencies."""
    span = np.log(sample_rate / 2 / LOWEST_HZ)
    ticks = [(100, "100 Hz"), (1000, "1 kHz"), (10000, "10 kHz")]
    return [(float(np.log(hertz / LOWEST_HZ) / span), label) for hertz, label in ticks if hertz < 0.45 * sample_rate]


def waveform_path(wave_CN: NDArray[np.floating[Any]], columns: int = 300) -> str:
    """Outline of the waveform as the `d` of an SVG path in a box 0..columns by -1..1 (full scale), y downwards."""
    mono = np.clip(np.atleast_2d(wave_CN).mean(0), -1, 1)
    edges = np.unique(np.linspace(0, len(mono), columns + 1).astype(int)[:-1])
    top, bottom = np.maximum.reduceat(mono, edges), np.minimum.reduceat(mono, edges)
    scale = columns / len(edges)
    upper = [f"{i * scale:.0f} {-float(v):.2f}" for i, v in enumerate(top)]
    lower = [f"{i * scale:.0f} {-float(v):.2f}" for i, v in enumerate(bottom)]
    return "M" + "L".join(upper + lower[::-1]) + "Z"


def _log_spectrum(mono: NDArray[Any], sample_rate: int, width: int, height: int) -> NDArray[np.float64]:
    """[height, width] levels 0..1, low frequencies first."""
    size = 2 ** max(5, round(np.log2(0.04 * sample_rate)))
    padded = np.pad(np.asarray(mono, dtype=np.float32), size // 2)
    starts = np.linspace(0, max(0, len(padded) - size), width).astype(int)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size).astype(np.float32)
    magnitude = np.abs(np.fft.rfft(frames)).T
    edges = np.geomspace(LOWEST_HZ, sample_rate / 2, height + 1) * size / sample_rate
    rows = np.empty((height, width))
    for row, (low, high) in enumerate(itertools.pairwise(edges)):
        first, last = int(np.ceil(low)), min(len(magnitude) - 1, int(np.floor(high)))
        if last >= first:
            rows[row] = magnitude[first : last + 1].max(0)
        else:  # a band between two bins
            below = min(int(low), len(magnitude) - 2)
            share = (low + high) / 2 - below
            rows[row] = (1 - share) * magnitude[below] + share * magnitude[below + 1]
    loudest = rows.max()
    if loudest <= 0:
        return np.zeros((height, width))
    return np.clip(1 + 20 * np.log10(np.maximum(rows / loudest, 1e-12)) / RANGE_DB, 0, 1)

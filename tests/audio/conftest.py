"""Sound files that the tests of this room share, written once a session by libsndfile, not by the code under test."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 44100
FRAMES = 44100


def tone(frames: int = FRAMES, rate: int = RATE, hz: float = 997.0) -> np.ndarray:
    """Two channels [N, 2]: a sine at half scale with a little noise, and the same an octave lower."""
    t = np.arange(frames) / rate
    hiss = 0.01 * np.random.default_rng(0).standard_normal(frames)
    return np.stack([0.5 * np.sin(2 * np.pi * hz * t) + hiss, 0.4 * np.sin(np.pi * hz * t)], 1).astype(np.float32)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    kinds = {
        "wav": ("WAV", "PCM_16", RATE),
        "wav24": ("WAVEX", "PCM_24", RATE),
        "float": ("WAV", "FLOAT", RATE),
        "ulaw": ("WAV", "ULAW", RATE),
        "adpcm": ("WAV", "IMA_ADPCM", RATE),
        "aiff": ("AIFF", "PCM_16", RATE),
        "flac": ("FLAC", "PCM_16", RATE),
        "flac24": ("FLAC", "PCM_24", RATE),
        "ogg": ("OGG", "VORBIS", RATE),
        "opus": ("OGG", "OPUS", 48000),
        "mp3": ("MP3", "MPEG_LAYER_III", RATE),
    }
    paths = {}
    for kind, (container, subtype, rate) in kinds.items():
        paths[kind] = folder / f"{kind}.{kind.rstrip('24') if kind[0] != 'o' else kind}"
        soundfile.write(paths[kind], tone(rate=rate), rate, format=container, subtype=subtype)
    return paths


def riff(chunks: list[tuple[bytes, bytes]], *, size: int | None = None, name: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(n + struct.pack("<I", len(c)) + c + b"\0" * (len(c) % 2) for n, c in chunks)
    return name + struct.pack("<I", len(body) if size is None else size) + body


def fmt(channels: int = 1, rate: int = RATE, bits: int = 16, kind: int = 1) -> tuple[bytes, bytes]:
    block = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", kind, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)

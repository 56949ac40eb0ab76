"""Pairs and restorers for tests of the evaluation: noise for a shift's damage, functions for networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from partimento.lab.restored.held import Held
from partimento.training.restorer import Restorer
from partimento.training.tasks.crops import Recording
from partimento.waveform.generators import GeneratorConfig

RATE = 16000


def tune(seed: int, seconds: float = 1.0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    n = np.arange(round(seconds * RATE))
    tones = sum(np.sin(2 * np.pi * rng.uniform(80, 5000) / RATE * n + rng.uniform(0, 6)) for _ in range(6))
    return (0.04 * tones + 0.01 * rng.standard_normal(len(n))).astype(np.float32)


class NoisePairs:
    """Held-out recordings whose damage is noise, 0.001 strong for each semitone."""

    full_band = True

    def __init__(self, recordings: list[Recording], semitones=(-12.0, 7.0)) -> None:
        self._recordings = recordings
        self.semitones = list(semitones)

    def recordings(self, side):
        return self._recordings

    def excerpt(self, side, recording, semitones, start, stop):
        wave_N = self._recordings[recording].wave_N
        noise_N = np.random.default_rng(recording).standard_normal(len(wave_N)).astype(np.float32)
        return (wave_N + 1e-3 * abs(semitones) * noise_N)[start:stop], wave_N[start:stop]

    def identity(self):
        return {}


def held(sources: int = 4, clips: int = 1, kinds: tuple[str, ...] = ("tunes",), seconds: float = 1.0) -> Held:
    recordings = [
        Recording(
            f"{number}_{clip}.flac", kinds[number % len(kinds)], tune(10 * number + clip, seconds), "0", f"s{number}"
        )
        for number in range(sources)
        for clip in range(clips)
    ]
    return Held(NoisePairs(recordings), f"{len(recordings)} fakes")


def gentle_shift(wave_CN, sample_rate, semitones):
    """A shift that changes no pitch: it adds a little noise of its own."""
    noise = np.random.default_rng(abs(round(semitones))).standard_normal(wave_CN.shape)
    return (wave_CN + 1e-3 * noise).astype(np.float32)


class Network:
    """What `restore_stream` wants of a generator: a function of each sample alone."""

    context, multiple = 0, 1
    config = GeneratorConfig.of("dac", stem=2, strides=(2, 4))

    def __init__(self, function) -> None:
        self.function = function

    def __call__(self, damaged_BN: torch.Tensor) -> torch.Tensor:
        return self.function(damaged_BN)


def restorer(function=lambda wave: wave, task="clean", semitones=(-12.0, 7.0), rate=RATE) -> Restorer:
    return Restorer(
        generator=Network(function),  # type: ignore[arg-type]
        sample_rate=rate,
        task=task,
        semitones=semitones,
        full_band=True,
        name="fake",
        weights_sha256="0" * 64,
        card={},
        device=torch.device("cpu"),
    )

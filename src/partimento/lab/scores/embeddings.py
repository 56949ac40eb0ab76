"""Embeddings of pieces of sound, by name: what distances between sets are measured in.

One always exists, ours: `logmel-96`. `clap:FOLDER` is a CLAP checkpoint in that folder (see `clap`). `module:function`
is anybody's: the function is called without arguments and gives an object that is an `Embedding`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from partimento.audio import files
from partimento.audio.spectra import log_mel
from partimento.errors import PartimentoError

Waves = NDArray[np.float32]
OURS = "logmel-96"
PIECE_SECONDS = 5.0
MOST_PIECES = 8  # of one item, spread evenly


class Embedding(Protocol):
    """waves [B, N] float32 mono at `sample_rate`, full scale 1, of equal length -> [B, D], finite.

    May have two attributes more: `sha256` of its weights, and `seconds`, the length of a piece that it is made for.
    """

    name: str
    sample_rate: int

    def __call__(self, waves_BN: Waves, /) -> NDArray[Any]: ...


class LogMel:
    """Mean, standard deviation and mean absolute step over time of 32 log10 mel magnitudes, [B, 96].

    Of no learned taste: it hears timbre, level and how much both move, and neither melody nor harmony.
    """

    name, sample_rate, seconds = OURS, 32000, PIECE_SECONDS
    definition: ClassVar[dict[str, Any]] = {
        "version": 1,
        "rate": 32000,
        "window": 1024,
        "hop": 256,
        "mels": 32,
        "floor": 1e-5,
        "of": ["mean", "deviation", "mean absolute step"],
    }
    sha256 = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()

    def __call__(self, waves_BN: Waves) -> NDArray[np.float64]:
        with torch.no_grad():
            levels_BMT = log_mel(torch.from_numpy(waves_BN).double(), self.sample_rate, 1024, 32)
        steps_BMT = levels_BMT.diff(dim=-1).abs()
        parts = [levels_BMT.mean(-1), levels_BMT.std(-1, unbiased=False), steps_BMT.mean(-1)]
        return np.asarray(torch.cat(parts, dim=-1).numpy())


def open_embedding(name: str) -> Embedding:
    """By name. Raises LAB050 (no such embedding, or it cannot be loaded), LAB051 (a CLAP checkpoint that is none)."""
    if name == OURS:
        return LogMel()
    if name.startswith("clap:"):
        from partimento.lab.scores.clap import Clap

        return Clap(Path(name.removeprefix("clap:")))
    return _foreign(name)


def embed(embedding: Embedding, waves_PN: Waves) -> NDArray[np.float64]:
    """[P, D] float64, finite. Raises LAB052 where it fails on these pieces."""
    try:
        found = np.asarray(embedding(waves_PN), dtype=np.float64)
        if found.ndim != 2 or len(found) != len(waves_PN) or not found.shape[1]:
            raise ValueError(f"it gave {found.shape} for {len(waves_PN)} pieces, not [{len(waves_PN)}, D]")
        if not np.isfinite(found).all():
            raise ValueError("it gave numbers that are not finite")
    # Foreign code may raise anything; all of it is told in the one shape, with its cause.
    except Exception as err:
        raise PartimentoError(
            "LAB052",
            f"the embedding {embedding.name} failed on a sound",
            where=f"{len(waves_PN)} pieces of {waves_PN.shape[1]} samples at {embedding.sample_rate} Hz",
            why=f"{type(err).__name__}: {err}",
            next="the sound is left out of this figure; call the embedding on such an array by itself",
        ) from err
    return found


def pieces(wave_CN: Waves, sample_rate: int, to_rate: int, seconds: float) -> Waves:
    """Up to MOST_PIECES pieces [P, N] of equal length, mono at `to_rate`, spread evenly over a sound; [0, N] of one
    that is shorter than a piece."""
    wave_N = files.resample(files.to_mono(wave_CN), sample_rate, to_rate)[0]
    size = round(seconds * to_rate)
    count = min(MOST_PIECES, len(wave_N) // size)
    starts = np.linspace(0, len(wave_N) - size, count).round().astype(int) if count > 1 else [(len(wave_N) - size) // 2]
    return np.stack([wave_N[start : start + size] for start in starts]) if count else np.zeros((0, size), np.float32)


def _foreign(name: str) -> Embedding:
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    try:
        if not module or not function:
            raise ValueError("it is neither ours, nor clap:FOLDER, nor module:function")
        sys.path.insert(0, here)
        try:
            found = getattr(importlib.import_module(module), function)()
        finally:
            sys.path.remove(here)
        if not callable(found) or not isinstance(found.name, str) or not 1000 <= int(found.sample_rate) <= 768000:
            raise TypeError("it has no name, no sample rate, or cannot be called")
    # Importing and opening run foreign code, which may raise anything.
    except Exception as err:
        raise PartimentoError(
            "LAB050",
            f"the embedding {name!r} cannot be opened",
            why=f"{type(err).__name__}: {err}",
            next=f"--embedding {OURS}, clap:FOLDER, or module:function of an object with name, sample_rate and a call",
        ) from err
    return cast(Embedding, found)

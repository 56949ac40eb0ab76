"""Audio that is played on from: brought to the codec's rate and channels, and coded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from partimento import commit
from partimento.audio import files
from partimento.codecs.codec import Codec, encode_whole
from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError
from partimento.progress import Progress

_SILENT = 10 ** (-80 / 20)  # of full scale: below what 14 bits hold


@dataclass(frozen=True)
class Heard:
    """The codes of whole frames of a recording, and which recording it was."""

    codes_TK: Tensor
    file: str
    sha256: str
    seconds: float


def hear(path: Path, codec: Codec, progress: Progress) -> Heard:
    """Read and code a recording of any rate; a last frame that is not full is left out, as it would be heard as a short
    silence before what is played on. One channel becomes two equal ones where the model plays two.

    Raises SYS004, AUDIO... (it cannot be read whole: damaged, cut, NaN, over an hour), CODEC011 (channels), SAMPLE033
    (shorter than one frame, or silent).
    """
    path = Path(path)
    audio = files.read_isolated(path)
    arranged = arrange(audio.wave_CN, codec.spec.layout, upmix=True)
    if arranged.done:
        progress.note(f"{path.name} has {arranged.channels} channels: {arranged.done} to {codec.spec.channels}")
    wave_CN = files.resample(arranged.wave_CN, audio.sample_rate, codec.spec.sample_rate)
    whole = wave_CN.shape[1] - wave_CN.shape[1] % int(codec.spec.hop)
    if whole == 0:
        seconds = float(codec.spec.hop) / codec.spec.sample_rate
        raise _unusable(path, "it is shorter than one frame", f"give at least {seconds:.3f} s of audio")
    if float(np.abs(wave_CN).max()) < _SILENT:
        raise _unusable(path, "it is silent (nothing above -80 dB)", "leave --continue out to begin from nothing")
    codes_TK = torch.from_numpy(encode_whole(codec, wave_CN[:, :whole]))
    return Heard(codes_TK, path.name, commit.sha256(path), codec.spec.seconds(len(codes_TK)))


def _unusable(path: Path, why: str, remedy: str) -> PartimentoError:
    return PartimentoError("SAMPLE033", "this cannot be played on from", where=str(path), why=why, next=remedy)

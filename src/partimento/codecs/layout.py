"""How the channels of a recording become what a codec codes. For now one layout: mono."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento.audio.files import to_mono
from partimento.errors import PartimentoError

LAYOUTS = ("mono",)


@dataclass(frozen=True)
class Arranged:
    """wave_CN with the channels of the layout, and how many the recording had (a downmix is recorded, never silent)."""

    wave_CN: NDArray[np.float32]
    layout: str
    channels: int


def arrange(wave_CN: NDArray[np.float32], layout: str = "mono") -> Arranged:
    """The recording in this layout; mono is the mean of the channels. Raises CODEC003 for an unknown layout."""
    if layout not in LAYOUTS:
        raise PartimentoError(
            "CODEC003",
            f"there is no channel layout {layout!r}",
            why=f"this version has: {', '.join(LAYOUTS)}",
            next="use --layout mono",
        )
    return Arranged(to_mono(wave_CN), layout, wave_CN.shape[0])

"""Two channels that are one: equal codes of left and right, or a side channel that stands still."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.lab.doctor import pictures
from partimento.lab.doctor.data.seen import Seen, some
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.tokens.pack import Pack

FRAMES = 60_000  # that are read
EQUAL = 0.98  # of a clip's codes, from which on its channels are copies
MANY, ALL = 0.3, 0.9  # share of the frames in such clips


def examine(seen: Seen, pack: Pack) -> Examined:
    spec = pack.spec
    if spec.layout == "mono":
        return Examined(fine=("The codes are of one channel, so none is a copy of another.",))
    clips = some(pack, seen.read.clips, FRAMES)
    equal_C, frames_C = np.zeros(len(clips)), np.zeros(len(clips))
    for row, clip in enumerate(clips.tolist()):
        codes_TK = pack.read(clip)
        frames_C[row] = len(codes_TK)
        if len(codes_TK):
            equal_C[row] = _equal(codes_TK, spec.layout, spec.books)
    copies_C = equal_C >= EQUAL
    share = float(frames_C[copies_C].sum() / max(1.0, frames_C.sum()))
    how = "the same codes left and right" if spec.layout == "left-right" else "a side channel that stands still"
    said = f"{int(copies_C.sum())} of the {len(clips)} clips that were looked at have {how}"
    if not copies_C.any():
        return Examined(fine=(f"The two channels differ: {said} (the most alike in {100 * equal_C.max():.0f} %).",))
    confidence = 0.95 if share >= ALL else 0.65 if share >= MANY else 0.3
    chart = pictures.shares(
        "channels", "clips", equal_C.tolist(), x_label="codes that are the same in both channels, %"
    )
    evidence = (Evidence(f"{said}, {100 * share:.0f} % of the music (layout {spec.layout}).", chart),)
    where = str(pack.clips.clip[int(clips[int(copies_C.argmax())])])
    return Examined((Finding("copied_channels", confidence, evidence, where),))


def _equal(codes_TK: NDArray[np.uint16], layout: str, books: tuple[int, ...]) -> float:
    """Share of equal codes of the books that both channels have; of mid and side, of the commonest frame of the side
    (two equal channels have none, and silence is one frame)."""
    first, second = codes_TK[:, : books[0]], codes_TK[:, books[0] :]
    if layout == "left-right":
        both = min(books)
        return float((first[:, :both] == second[:, :both]).mean())
    _, count = np.unique(second, axis=0, return_counts=True)
    return float(count.max() / len(second))

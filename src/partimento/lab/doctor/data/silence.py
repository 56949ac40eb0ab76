"""Silence in the data, as codes show it: one frame again and again (`tokens.silence`)."""

from __future__ import annotations

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.data.seen import Seen
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.tokens import silence
from partimento.tokens.pack import Pack

FEW, MUCH = 0.2, 0.4  # of all frames, from which on it is a fault, and a grave one
SLIGHT = 0.05
ONE_FRAME = 0.5  # of what stands still: below that it is rather held sounds, which differ from one another


def examine(seen: Seen, pack: Pack) -> Examined:
    read = seen.read
    if not read.frames_C.sum():
        return Examined(missing=("Silence in the data: its clips hold no frame.",))
    found = silence.summary(pack, read.clips, read.runs)
    said = f"{100 * found.share:.1f} % of the frames of {seen.how_much} stand still for {found.least_seconds:.2g} s"
    if found.share < SLIGHT:
        return Examined(fine=(f"Silence: {said} or longer.",))
    confidence = 0.3 if found.share < FEW else 0.65 if found.share < MUCH else 0.9
    same = found.commonest_share / found.share
    if same < ONE_FRAME:
        confidence = min(0.4, confidence)
    evidence = [
        f"{said} or longer; {100 * same:.0f} % of that is one and the same frame.",
        f"{found.still_clips} of {found.clips} clips stand still for half of their length or more.",
    ]
    if found.shared_openings:
        evidence.append(
            f"{found.shared_openings} clips begin, for {found.opening_seconds:.2g} s, with the very frames that a clip "
            "of another source begins with."
        )
    where = found.worst[0].clip if found.worst else None
    still_C = read.runs.still_C / np.maximum(1, read.frames_C)
    chart = pictures.shares("silence", "clips", still_C.tolist(), x_label="frames of the clip that stand still, %")
    first, *rest = evidence
    return Examined((Finding("silent_share", confidence, (Evidence(first, chart), *map(Evidence, rest)), where),))

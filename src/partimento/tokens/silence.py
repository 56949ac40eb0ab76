"""Silence as codes show it: frames that stand still, clips that begin or end with them, openings that clips share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento.tokens.clipwise import Runs
from partimento.tokens.pack import Pack
from partimento.tokens.shards import CODES

LISTED = 20


@dataclass(frozen=True)
class Still:
    """A clip by name and the seconds that its longest, first and last frame stand still."""

    clip: str
    longest: float
    leading: float
    trailing: float


@dataclass(frozen=True)
class Silence:
    """`share` of all frames stand still (one repeated frame for `least_seconds` or more); `commonest` is the frame that
    does so most often (its K codes), `commonest_share` of all frames. `leading` and `trailing` count the clips that
    begin or end so, and `leading_seconds`, `trailing_seconds` add up what they hold. `shared_openings` clips begin, for
    `opening_seconds`, with the very frames that a clip of another source begins with. `worst` clips stand still
    longest."""

    least_seconds: float
    opening_seconds: float
    clips: int
    share: float
    commonest: list[int] | None
    commonest_share: float
    leading: int
    leading_seconds: float
    trailing: int
    trailing_seconds: float
    shared_openings: int
    still_clips: int
    worst: list[Still]


def summary(pack: Pack, clips: NDArray[np.int64], runs: Runs) -> Silence:
    """`runs` were collected of `clips`, in this order. A clip is a still one if half of its frames stand still."""
    rate = float(pack.spec.frame_rate)
    frames_C = np.asarray(pack.clips.frames[clips], dtype=np.int64)
    total = max(1, int(frames_C.sum()))
    leading = runs.leading_C >= runs.still
    trailing = runs.trailing_C >= runs.still
    top = runs.still_frames.most_common(1)
    order = np.lexsort((np.arange(len(clips)), -runs.longest_C))[:LISTED]
    lengths = (runs.longest_C, runs.leading_C, runs.trailing_C)
    worst = [row for row in order.tolist() if runs.longest_C[row] >= runs.still]
    sources = [pack.clips.source[int(clip)] for clip in clips]
    return Silence(
        least_seconds=runs.still / rate,
        opening_seconds=runs.opening / rate,
        clips=len(clips),
        share=float(runs.still_C.sum() / total),
        commonest=np.frombuffer(top[0][0], dtype=CODES).tolist() if top else None,
        commonest_share=top[0][1] / total if top else 0.0,
        leading=int(leading.sum()),
        leading_seconds=float(runs.leading_C[leading].sum() / rate),
        trailing=int(trailing.sum()),
        trailing_seconds=float(runs.trailing_C[trailing].sum() / rate),
        shared_openings=int(runs.shared_openings(sources).sum()),
        still_clips=int(((runs.still_C * 2 >= frames_C) & (frames_C > 0)).sum()),
        worst=[
            Still(
                pack.clips.clip[int(clips[row])],
                *(float(column[row] / rate) if column[row] > 1 else 0.0 for column in lengths),
            )
            for row in worst
        ],
    )

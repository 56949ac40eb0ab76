"""Which frames of a pack a training draws: crop starts, clips shorter than a window, frames that are never drawn.

Counted exactly from the places of the draw (`Draw.places`), not from a model of it: each window adds one to the frames
that are its targets, by differences at its two ends, so the cost is per window and per frame, never their product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento.progress import Progress, Quiet
from partimento.tokens.draw import Draw

BINS = 20
DRAWS = 8  # the histogram of draws a frame ends with "so many or more"
CHUNK = 2**18
GROUP_FRAMES = 2**22
MOST_ITEMS = 2**24
"""Windows that are looked at; an epoch of more than that is cut, and says so."""


@dataclass(frozen=True)
class Coverage:
    """`items` windows of a draw of `split`, `epochs` of them. Frames are counted once for each window in which any of
    their codes is a target.

    `starts` is the histogram of crop starts, [0, 1] from the first possible start to the last in equal bins, over clips
    longer than a window; `at_start` and `at_end` the shares that begin exactly there. `short_clips` are shorter than a
    window (their windows end in padding; `padding` is its share of all rows). `draws` counts frames by how often they
    were drawn, the last entry "so often or more"; `never` are those at 0, `never_clips` clips are never touched.
    """

    split: str
    window: int
    delays: list[int]
    seed: int
    items: int
    epochs: float
    starts: list[int]
    at_start: float | None
    at_end: float | None
    clips: int
    short_clips: int
    padding: float
    frames: int
    never: int
    never_clips: int
    draws: list[int]

    @property
    def never_share(self) -> float:
        return self.never / self.frames

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "never_share": self.never_share}


def coverage(
    draw: Draw, *, items: int | None = None, epochs: float = 1.0, progress: Progress | None = None
) -> Coverage:
    """The first `items` windows of the draw, or those of `epochs` (at most MOST_ITEMS; see `Coverage.epochs`)."""
    progress = progress or Quiet()
    items = min(MOST_ITEMS, max(1, round(epochs * draw.slots)) if items is None else items)
    clip_B, start_B = _all_places(draw, items, progress)
    clips = np.asarray(draw.clips, dtype=np.int64)
    frames_C = np.asarray(draw.pack.clips.frames[clips], dtype=np.int64)
    steps_C = np.asarray([draw.pattern.steps(n, draw.ends) for n in frames_C.tolist()], dtype=np.int64)
    number_B = np.searchsorted(clips, clip_B)
    room_B = steps_C[number_B] - (draw.window + 1)
    roomy = room_B > 0
    place_B = start_B[roomy] / np.maximum(1, room_B[roomy])
    starts = np.histogram(place_B, bins=BINS, range=(0, 1))[0]

    draws = np.zeros(DRAWS + 1, dtype=np.int64)
    never_clips = 0
    for times_T, ends in _times_drawn(draw, frames_C, number_B, start_B):
        draws += np.bincount(np.minimum(times_T, DRAWS), minlength=DRAWS + 1)
        touched = np.add.reduceat(times_T, ends[:-1]) if len(times_T) else np.zeros(0)
        never_clips += int((touched == 0).sum())
    return Coverage(
        split=draw.split,
        window=draw.window,
        delays=list(draw.pattern.delays),
        seed=draw.seed,
        items=items,
        epochs=items / draw.slots,
        starts=starts.tolist(),
        at_start=float((start_B[roomy] == 0).mean()) if roomy.any() else None,
        at_end=float((start_B[roomy] == room_B[roomy]).mean()) if roomy.any() else None,
        clips=len(clips),
        short_clips=int((steps_C < draw.window + 1).sum()),
        padding=float(np.maximum(0, -room_B).sum() / (items * (draw.window + 1))),
        frames=int(frames_C.sum()),
        never=int(draws[0]),
        never_clips=never_clips,
        draws=draws.tolist(),
    )


def _all_places(draw: Draw, items: int, progress: Progress) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    parts = []
    for first in range(0, items, CHUNK):
        parts.append(draw.places(np.arange(first, min(items, first + CHUNK))))
        progress.update(min(items, first + CHUNK), items, windows=min(items, first + CHUNK))
    clips, starts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return clips, starts


def _times_drawn(
    draw: Draw, frames_C: NDArray[np.int64], number_B: NDArray[np.int64], start_B: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(how often each frame was drawn, clip borders), for runs of whole clips of some GROUP_FRAMES frames. No clip is
    empty here: an empty one has no frames to miss."""
    order = np.argsort(number_B, kind="stable")
    number_B, start_B = number_B[order], start_B[order]
    total_C = np.cumsum(frames_C)
    at = 0
    while at < len(frames_C):
        before = int(total_C[at - 1]) if at else 0
        end = max(at + 1, int(np.searchsorted(total_C, before + GROUP_FRAMES)))
        low, high = np.searchsorted(number_B, [at, end])
        base_C = np.concatenate([[0], total_C[at:end] - before])
        size = int(base_C[-1])
        change = np.zeros(size + 1, dtype=np.int64)
        numbers = number_B[low:high]
        for first_B, last_B in _spans(draw, start_B[low:high], frames_C[numbers]):
            new_B = first_B < last_B
            offset_B = base_C[numbers[new_B] - at]
            change += np.bincount(offset_B + first_B[new_B], minlength=size + 1)
            change -= np.bincount(offset_B + last_B[new_B], minlength=size + 1)
        filled = np.diff(base_C) > 0
        yield np.cumsum(change)[:size], np.append(base_C[:-1][filled], size)
        at = end


def _spans(
    draw: Draw, start_B: NDArray[np.int64], frames_B: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(first, last) frames of windows (none where last <= first), book by book without those of the books before, so
    that none counts twice.

    Rows start + 1 .. start + window are targets (see `Draw.targets`); a greater delay stands for earlier frames.
    """
    stride = draw.pattern.stride
    done_B = np.zeros_like(start_B)
    for delay in sorted(set(draw.pattern.delays), reverse=True):
        first_B = np.maximum(done_B, -((delay - start_B) // stride))
        last_B = np.minimum(frames_B, (start_B + draw.window - 1 - delay) // stride + 1)
        yield first_B, last_B
        done_B = np.maximum(done_B, last_B)

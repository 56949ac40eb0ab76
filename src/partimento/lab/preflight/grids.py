"""Checks of what a window holds: where it begins, which codes, where its clip ends. Held against a slow loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped
from partimento.tokens.draw import Draw, Item
from partimento.tokens.patterns import window

PLACES = 4096  # windows whose starts are looked at
READ_WINDOWS = 8  # windows that are compared with the pack
SPREAD = 0.125  # mean distance of the starts from their mean, in rooms for a crop; of an even draw a quarter


def crops_spread(bench: Bench) -> Check:
    """Windows hold the frames that they say, begin all over their clips, and are others in the next epoch."""
    task = bench.codes
    if task is None:
        return skipped("crops", "crops of recordings are drawn by key, at any sample")
    draw, pack = task.train, task.pack
    batch = draw.batch(range(READ_WINDOWS))
    for (clip, start), grid_SK in zip(batch.items, batch.grid_BSK.numpy(), strict=True):
        right_SK = window(
            lambda first, last, clip=clip: pack.read(clip, first, last),  # type: ignore[misc]
            int(pack.clips.frames[clip]),
            draw.pattern,
            draw.specials,
            start=start,
            steps=draw.window + 1,
            ends=draw.ends,
        )
        if not np.array_equal(grid_SK, right_SK):
            found = f"the window of {pack.clips.clip[clip]} at step {start} holds other codes than the pack has there"
            return failed("crops", found, "cropping has one owner (tokens.draw); undo the change")
    clip_B, start_B = draw.places(np.arange(PLACES))
    room_B = np.asarray(draw.pattern.steps_many(pack.clips.frames[clip_B], draw.ends)) - (draw.window + 1)
    roomy = room_B > 0
    if not roomy.any():
        return passed("crops", "no clip is longer than a window: each is drawn whole")
    place_B = start_B[roomy] / room_B[roomy]
    drawn = np.histogram(place_B, bins=8, range=(0, 1))[0]
    told = "starts in eighths of the clips: " + " ".join(str(count) for count in drawn.tolist())
    if np.abs(place_B - place_B.mean()).mean() < SPREAD:
        same = float((place_B == np.median(place_B)).mean())
        found = f"the crops begin at one place of their clips ({100 * same:.0f} % exactly there); {told}"
        return failed("crops", found, "most of the data is never heard: crops must begin all over a clip")
    items = np.arange(min(PLACES, draw.slots))
    epochs = [np.stack(draw.places(items + epoch * draw.slots)) for epoch in (0, 1)]
    if np.array_equal(epochs[0], epochs[1]):
        return failed("crops", "two epochs draw the same windows in the same order", "draw by (seed, number)")
    return passed("crops", f"{told}; two epochs differ")


def ends_true(bench: Bench) -> Check:
    """The last window of a clip holds its last codes of every book; EOS stands there and nowhere else, staggered."""
    task = bench.codes
    if task is None:
        return skipped("ends", "looked for in grids")
    draw = task.train
    clips = sorted({item.clip for item in draw.items(range(READ_WINDOWS))})
    for clip in clips:
        last = int(draw.pattern.steps(int(task.pack.clips.frames[clip]), draw.ends)) - (draw.window + 1)
        for start in sorted({max(0, last // 2), max(0, last)}):
            grid_SK = draw.collate([Item(clip, start, (), False)]).grid_BSK[0].numpy().astype(np.int64)
            right_SK = _slow(draw, clip, start)
            if not np.array_equal(grid_SK, right_SK):
                return failed("ends", _difference(task.pack.clips.clip[clip], start, grid_SK, right_SK), _REMEDY)
        if (lost := _lost(draw, clip, max(0, last))) is not None:
            found = f"the last code of book {lost + 1} of {task.pack.clips.clip[clip]} is in no window"
            return failed("ends", found, "a grid must be longer than its clip by the largest delay (tokens.patterns)")
    told = "EOS once a book, at true ends only" if draw.ends else "no EOS: these weights do not know it"
    return passed("ends", f"{told}; no code of {len(clips)} clips is lost by the pattern {list(draw.pattern.delays)}")


_REMEDY = "the layout has one owner (tokens.patterns); undo the change"


def _slow(draw: Draw, clip: int, start: int) -> NDArray[np.int64]:
    """The window by the definition: the code of frame t, book k stands at step 1 + stride t + delay_k."""
    codes_TK = np.asarray(draw.pack.read(clip), dtype=np.int64)
    specials, total = draw.specials, len(codes_TK)
    grid_SK = np.full((draw.window + 1, codes_TK.shape[1]), specials.pad, dtype=np.int64)
    for row in range(draw.window + 1):
        for book, delay in enumerate(draw.pattern.delays):
            past = start + row - 1 - delay
            frame, between = divmod(past, draw.pattern.stride)
            if past < 0:
                grid_SK[row, book] = specials.bos
            elif not between and frame < total:
                grid_SK[row, book] = codes_TK[frame, book]
            elif not between and frame == total and specials.eos is not None:
                grid_SK[row, book] = specials.eos
    return grid_SK


def _difference(name: str, start: int, grid_SK: NDArray[np.int64], right_SK: NDArray[np.int64]) -> str:
    row, book = (int(i) for i in np.argwhere(grid_SK != right_SK)[0])
    there, right = int(grid_SK[row, book]), int(right_SK[row, book])
    return f"the window of {name} at step {start} has id {there} in row {row}, book {book + 1}, where {right} belongs"


def _lost(draw: Draw, clip: int, start: int) -> int | None:
    """The first book whose last frame (its EOS, where there is one) stands past the last window of the clip."""
    last = int(draw.pack.clips.frames[clip]) - 1 + draw.ends
    for book, delay in enumerate(draw.pattern.delays):
        if 1 + draw.pattern.stride * last + delay > start + draw.window:
            return book
    return None

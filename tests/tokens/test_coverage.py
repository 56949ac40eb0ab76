"""What a draw covers, against a count of every frame of every window one by one."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import SPEC, write_pack

from partimento.tokens import coverage as module
from partimento.tokens.coverage import coverage
from partimento.tokens.draw import Draw
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials


def drawn(pack, pattern="delay", window=16, seed=0):
    return Draw(pack, Pattern.named(pattern, 3), Specials.after(16), window=window, seed=seed)


def brute(draw, items):
    """times[clip][frame]: in how many windows any code of the frame is a target, from the grid's own definition."""
    pattern = draw.pattern
    times = {int(clip): np.zeros(int(draw.pack.clips.frames[clip]), dtype=int) for clip in draw.clips}
    for item in draw.items(range(items)):
        hit = set()
        for row in range(item.start + 1, item.start + draw.window + 1):
            for book in range(pattern.codebooks):
                frame = pattern.frame_at(row, book)
                if frame is not None and frame < len(times[item.clip]):
                    hit.add(frame)
        times[item.clip][sorted(hit)] += 1
    return times


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("coverage") / "pack", (40, 7, 25, 60, 33, 1, 50, 12, 80, 21, 90, 3))


@settings(max_examples=25, deadline=None)
@given(
    pattern=st.sampled_from(["delay", "parallel", "flat", "dia", [2, 0, 1]]),
    window=st.integers(3, 60),
    items=st.integers(1, 60),
    seed=st.integers(0, 9),
    group=st.sampled_from([1, 50, 10**6]),
)
def test_every_count_equals_the_count_one_by_one(pack, pattern, window, items, seed, group):
    draw = drawn(pack, pattern, window, seed)
    before, module.GROUP_FRAMES = module.GROUP_FRAMES, group
    try:
        found = coverage(draw, items=items)
    finally:
        module.GROUP_FRAMES = before
    times = brute(draw, items)
    every = np.concatenate(list(times.values()))
    assert found.frames == len(every) and found.never == (every == 0).sum()
    assert found.draws == np.bincount(np.minimum(every, module.DRAWS), minlength=module.DRAWS + 1).tolist()
    assert found.never_clips == sum(not column.any() for column in times.values())
    steps = [draw.pattern.steps(int(n), True) for n in pack.clips.frames[draw.clips]]
    assert found.short_clips == sum(n < window + 1 for n in steps) and found.clips == len(steps)
    json.dumps(found.to_json(), allow_nan=False)


def test_starts_lie_where_the_draw_puts_them(pack):
    draw = drawn(pack)
    found = coverage(draw, epochs=40)
    assert found.items == 40 * draw.slots and found.epochs == 40
    roomy = [
        (item.start, room)
        for item in draw.items(range(found.items))
        if (room := draw.pattern.steps(int(pack.clips.frames[item.clip]), True) - 17) > 0
    ]
    assert found.at_start == pytest.approx(np.mean([start == 0 for start, _ in roomy]))
    assert found.at_end == pytest.approx(np.mean([start == room for start, room in roomy]))
    assert sum(found.starts) == len(roomy) and min(found.starts) > 0
    assert found.never == 0 and 0 < found.padding < 1


def test_padding_is_that_of_the_batches(pack):
    draw = drawn(pack, window=40)
    found = coverage(draw)
    grid = draw.batch(range(found.items)).grid_BSK
    after_end = sum(int((row == draw.specials.pad).all(dim=1).sum()) for row in grid)
    # A row past the end is PAD in all books; rows of the staggered end are counted as the clip's own.
    assert found.padding == pytest.approx(after_end / grid[..., 0].numel())


def test_no_more_than_so_many_windows_are_looked_at(pack, monkeypatch):
    monkeypatch.setattr(module, "MOST_ITEMS", 10)
    found = coverage(drawn(pack), epochs=5)
    assert found.items == 10 and found.epochs < 5
    assert SPEC.codebooks == len(found.delays)

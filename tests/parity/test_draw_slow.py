"""The draw against its definition, written again as plain loops over Python's integers, without our keyed or numpy.

Global batches (places, grids, tags, null condition) must be these for 1, 2, 4 and 8 ranks, and after a resume at any
step.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partimento.tokens.draw import Batch, Draw
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import CodecSpec, Specials
from partimento.tokens.writer import PackWriter

FULL = 2**64 - 1
SPEC = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (16, 16, 12))
PATTERNS = {"delay": ([0, 1, 2], 1), "parallel": ([0, 0, 0], 1), "flat": ([0, 1, 2], 3), "odd": ([2, 0, 5], 1)}
TAGS = ["piano", "drums", "120 bpm", "no vocals", "vocals"]


def key(*parts: int | str) -> int:
    text = "\x1f".join(f"{'int' if isinstance(part, int) else 'str'}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") // 2


def mix(value: int) -> int:
    value &= FULL
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & FULL
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & FULL
    return value ^ (value >> 31)


def bits(index: int, *parts: int | str) -> int:
    return mix(key(*parts) + (index + 1) * 0x9E3779B97F4A7C15)


def shuffled(place: int, n: int, *parts: int | str) -> int:
    half = 1
    while 4**half < n:
        half += 1
    while True:
        left, right = divmod(place, 2**half)
        for number in range(6):
            left, right = right, left ^ (mix(right + key(*parts, "feistel", number)) % 2**half)
        place = left * 2**half + right
        if place < n:
            return place


class Slow:
    """The definition of the draw over lists: `clips` are (number, codes [T][K], tags) of the train split."""

    def __init__(self, clips: list[tuple[int, list[list[int]], list[str]]], given: dict[str, Any]) -> None:
        self.clips, self.given = clips, given
        self.delays, self.stride = PATTERNS[given["pattern"]]
        self.vocabulary = sorted({tag for _, _, tags in clips for tag in tags})
        self.grids = [self.grid(codes) for _, codes, _ in clips]
        self.slots = []
        for place, grid in enumerate(self.grids):
            self.slots += [place] * max(1, round(len(grid) / given["window"]))

    def grid(self, codes: list[list[int]]) -> list[list[int]]:
        eos, pad, bos = 16, 17, 18
        rows = self.stride * len(codes) + max(self.delays) + 2
        grid = [[bos if row < 1 + delay else pad for delay in self.delays] for row in range(rows)]
        for frame, codes_K in enumerate([*codes, [eos] * 3]):
            for book, delay in enumerate(self.delays):
                grid[1 + self.stride * frame + delay][book] = codes_K[book]
        return grid

    def item(self, index: int) -> tuple[int, int, list[list[int]], list[float], bool]:
        seed, window, n = self.given["seed"], self.given["window"], len(self.slots)
        place = self.slots[shuffled(index % n, n, "slots", seed, "train", index // n)]
        number, _, tags = self.clips[place]
        grid = self.grids[place]
        start, overhang = 0, window // 8
        if len(grid) > window + 1:
            room = len(grid) - (window + 1)
            start = bits(index, "start", seed, "train", 0) % (room + 2 * overhang + 1) - overhang
            start = 0 if start < 0 else room if start > room else start
        rows = [grid[row] if row < len(grid) else [17] * 3 for row in range(start, start + window + 1)]
        kept = [tag for tag in tags if key("tag", "tags", seed, "train", index, tag) // 2**10 >= 0.3 * 2**53]
        kept = sorted(kept, key=lambda tag: (key("tag order", "tags", seed, "train", index, tag), tag))[:2]
        keep = bits(index, "null", seed, "train") // 2**11 >= 0.25 * 2**53
        return number, start, rows, [float(tag in kept) for tag in self.vocabulary], keep and bool(kept)


def check(batches: list[Batch], slow: Slow, first: int) -> None:
    """The ranks' batches, one after another, are the items from number `first` on."""
    place = first
    for batch in batches:
        assert batch.grid_BSK.dtype == torch.int16
        for row, (clip, start) in enumerate(batch.items):
            expected = slow.item(place)
            assert (clip, start) == expected[:2]
            assert batch.grid_BSK[row].tolist() == expected[2]
            assert batch.tags_BG[row].tolist() == expected[3]
            assert bool(batch.keep_B[row]) == expected[4]
            place += 1


def make(folder: Path, lengths: list[int], seed: int) -> tuple[Pack, list[tuple[int, list[list[int]], list[str]]]]:
    rng = np.random.default_rng(seed)
    writer = PackWriter(folder, SPEC, clips_per_shard=3)
    whole = []
    for number, frames in enumerate(lengths):
        codes_TK = np.stack([rng.integers(0, v, frames) for v in SPEC.cardinalities], axis=1)
        tags = [str(tag) for tag in rng.choice(TAGS, rng.integers(0, 4), replace=False)]
        writer.add(codes_TK, tags=tags)
        whole.append((number, codes_TK.tolist(), tags))
    pack = writer.finish()
    return pack, [clip for clip in whole if pack.clips.split[clip[0]] == "train"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_global_batches_are_the_definition_for_every_world_and_after_a_resume(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=3, max_size=9), label="lengths")
    given_ = {
        "pattern": data.draw(st.sampled_from(sorted(PATTERNS)), label="pattern"),
        "seed": data.draw(st.integers(0, 2**40), label="seed"),
        "window": data.draw(st.integers(1, max(lengths) + 1), label="window"),
    }
    accumulate = data.draw(st.integers(1, 3), label="accumulate")
    pattern = Pattern(*(tuple(part) if isinstance(part, list) else part for part in PATTERNS[given_["pattern"]]))
    with tempfile.TemporaryDirectory() as folder:
        _, clips = make(Path(folder), lengths, given_["seed"] % 97)
        slow = Slow(clips, given_)

        def fresh() -> Draw:
            return Draw(
                Pack.open(Path(folder)),
                pattern,
                Specials.after(16),
                window=given_["window"],
                seed=given_["seed"],
                null_share=0.25,
                tag_dropout=0.3,
                tag_shuffle=True,
                tag_limit=2,
            )

        went_on = fresh()
        assert went_on.slots == len(slow.slots) and went_on.tag_vocabulary == slow.vocabulary
        for _ in range(2):
            step = data.draw(st.one_of(st.integers(0, 40), st.integers(0, 10**9)), label="step")
            micro = data.draw(st.integers(0, accumulate - 1), label="micro")
            first = (step * accumulate + micro) * 8
            for world in (1, 2, 4, 8):
                resumed = fresh() if world == 8 else went_on  # a resume has drawn nothing before
                parts = [
                    resumed.step(step, micro, batch_size=8, accumulate=accumulate, rank=rank, world=world)
                    for rank in range(world)
                ]
                assert all(len(part.items) == 8 // world for part in parts)
                check(parts, slow, first)


def test_fixed_windows_and_raw_windows_are_the_definition(tmp_path: Path) -> None:
    pack, clips = make(tmp_path, [40, 7, 25, 60, 33, 1, 50, 12, 70], 3)
    slow = Slow(clips, {"pattern": "delay", "seed": 5, "window": 20})
    draw = Draw(pack, Pattern((0, 1, 2)), Specials.after(16), window=20, seed=5)
    indices = [0, 3, 5000, 17, 10**12]
    codes = {number: codes for number, codes, _ in clips}
    for window_TK, index in zip(draw.windows(indices).tolist(), indices, strict=True):
        number, start, *_ = slow.item(index)
        assert window_TK == (codes[number][start : start + 20] + [[17] * 3] * 20)[:20]
    tiles = [
        (number, start)
        for (number, _, _), grid in zip(clips, slow.grids, strict=True)
        for start in range(0, max(1, len(grid) - 1), 20)
    ]
    chosen = sorted(shuffled(place, len(tiles), "fixed", "train") for place in range(min(6, len(tiles))))
    assert [(item.clip, item.start) for item in draw.fixed(6)] == [tiles[place] for place in chosen]
    assert json.dumps(draw.fixed(6))  # plain integers and strings

"""The memorisation audit's search: a training split of many hours, held against samples and held-out clips.

    python bench/memorised.py                     256 hours of generated codes, 3 GB in a temporary folder, 2 minutes
    python bench/memorised.py --hours 8 --scratch /somewhere

The codes are generated like those of music: uneven use, held frames, silence, loops that clips share. Two of the
samples hold 2 s of a training clip, one of them with 5 % of all codes changed; that both are found is asserted.

search     seconds and peak memory of a fresh process that opens the pack, checks every clip's crc32, and searches
baselines  the same question asked in other ways, on a slice, seconds for an hour of pack by an hour of samples:
           dict      every n-gram of 8 frames of the first book of the pack in a Python dict, samples looked up, runs
                     followed
           table     bench/copies.py: all frames of the pack at once for each frame of a sample (numpy)
           suffixes  a suffix array of the pack (prefix doubling in numpy), each sample's suffixes bisected
           One thread each; `times` is how many times quicker the search is for the same hours, by linear scaling.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copies import Copies
from partimento.lab.memorised.frames import surprise
from partimento.lab.memorised.held import hold_out
from partimento.lab.memorised.index import Queries
from partimento.lab.memorised.search import search
from partimento.tokens import shards
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import finish_table, shard_file
from synthetic import table

SPEC = CodecSpec("synthetic", "0" * 64, 44100, Fraction(44100, 512), (1024,) * 9)
BOOKS, FRAMES, PER_SHARD = 9, 943, 4000  # 943 frames are 11 s
SAMPLES, SAMPLE_FRAMES = 64, 861  # 10 s
PLANTED = 172  # 2 s
NGRAM = 8
TRAINING = 0.9  # of the clips; the others are held out


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--hours", type=float, default=256.0)
    arguments.add_argument("--slice", type=float, default=0.25, help="hours that the baselines are run on")
    arguments.add_argument("--scratch", type=Path, help="where the pack is made, and removed")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        print(json.dumps(searched(given.child)))
        return
    with tempfile.TemporaryDirectory(prefix="partimento-bench", dir=given.scratch) as folder:
        began = time.perf_counter()
        pack = make(Path(folder) / "pack", round(given.hours / TRAINING * 3600 * SPEC.frame_rate / FRAMES))
        print(f"a pack of {given.hours:g} training hours: {time.perf_counter() - began:.0f} s to make", flush=True)
        made = [sys.executable, __file__, "--child", str(pack.path)]
        found = json.loads(subprocess.run(made, check=True, capture_output=True, text=True).stdout)
        found["baselines"] = baselines(pack, given.slice)
    per_hour = found["seconds"] / found["hours"] / found["sample_hours"]
    print(f"\n{'':<10}  {'seconds for an hour by an hour':>30}  {'times':>9}  {'hours':>8}")
    print(f"{'search':<10}  {per_hour:30.4f}  {1:9}  {found['hours']:8.2f}")
    for name, row in found["baselines"].items():
        row["times"] = row["per_hour"] / per_hour
        print(f"{name:<10}  {row['per_hour']:30.1f}  {row['times']:9.0f}  {row['hours']:8.2f}")
    print(
        f"\n{found['hours']:.1f} training hours, {found['samples']} samples of 10 s and {found['held_out']} held-out "
        f"clips: {found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s of the processor, imports and all), peak "
        f"{found['megabytes']:,.0f} MB, {found['cores']} cores"
    )
    print(json.dumps({"memorised": found}))


def make(path: Path, clips: int) -> Pack:
    rng, made = np.random.default_rng(0), []
    usage = np.exp(-np.arange(1024) / 150)
    codes = np.repeat(np.arange(1024, dtype=np.uint16), np.maximum(1, np.rint(2**16 * usage / usage.sum()).astype(int)))
    loops = [_music(rng, codes, 60) for _ in range(200)]
    for number, first in enumerate(range(0, clips, PER_SHARD)):
        size = min(PER_SHARD, clips - first)
        block_NK = _music(rng, codes, size * FRAMES)
        for clip in range(0, size, 5):  # a bar that other clips have too, with some of its codes changed
            loop_TK = loops[int(rng.integers(len(loops)))].copy()
            changed = rng.random(loop_TK.shape) < 0.4
            loop_TK[changed] = rng.choice(codes, int(changed.sum()))
            at = clip * FRAMES + int(rng.integers(FRAMES - 60))
            block_NK[at : at + 60] = loop_TK
        made.append(shards.write(path, shard_file(number), np.split(block_NK, size), SPEC.cardinalities))
    return finish_table(path, SPEC, table(np.full(clips, FRAMES), PER_SHARD), made)


def _music(rng: np.random.Generator, codes: NDArray[np.uint16], frames: int) -> NDArray[np.uint16]:
    """[frames, K]: uneven use, a third of the frames held in the first two books, a tenth silent."""
    codes_NK = codes[rng.integers(0, len(codes), (frames, BOOKS), dtype=np.uint32)]
    place = np.where(rng.random(frames, dtype=np.float32) < 1 / 3, 0, np.arange(frames))
    codes_NK[:, :2] = codes_NK[np.maximum.accumulate(place), :2]
    silent = np.repeat(rng.random(-(-frames // 40), dtype=np.float32) < 0.1, 40)[:frames]
    codes_NK[silent] = 7
    return codes_NK


def samples_of(pack: Pack, train: NDArray[np.int64]) -> tuple[list[NDArray[np.uint16]], tuple[int, int]]:
    """Samples like the pack; the first two hold a training clip's frames from 300 on, from frame 200 on."""
    rng = np.random.default_rng(1)
    held = np.concatenate([np.asarray(pack.read(int(clip))) for clip in pack.split("valid")[-SAMPLES:]])
    made = [np.roll(held, -i * FRAMES, axis=0)[:SAMPLE_FRAMES].copy() for i in range(SAMPLES)]
    clip = int(train[len(train) // 2])
    copy_TK = np.asarray(pack.read(clip, 300, 300 + PLANTED))
    made[0][200 : 200 + PLANTED] = copy_TK
    changed = rng.random(copy_TK.shape) < 0.05
    made[1][200 : 200 + PLANTED] = np.where(changed, rng.integers(0, 1024, copy_TK.shape), copy_TK)
    return made, (clip, 300)


def searched(path: Path) -> dict[str, Any]:
    began = time.perf_counter()
    pack = Pack.open(path)
    train = pack.split("train")
    samples, (clip, first) = samples_of(pack, train)
    held = hold_out(pack, SAMPLE_FRAMES, None)
    prepared = time.perf_counter()
    queries = Queries([*samples, *held.codes], surprise(pack, train))
    found = search(pack, train, queries)
    ended = time.perf_counter()
    for number in (0, 1):
        near = found.near[number]
        assert near is not None and near.clip == clip, (number, near)
        # Changed frames at the ends are no part of the best alignment, but the diagonal is exact.
        assert near.aligned.clip_first - near.aligned.sample_first == first - 200, near
        assert abs(near.aligned.clip_first - first) < 20, near
    hours = found.frames / float(SPEC.frame_rate) / 3600
    return {
        "seconds": ended - began,
        "search_seconds": ended - prepared,
        "cpu_seconds": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
        "hours": hours,
        "frames": found.frames,
        "samples": len(samples),
        "held_out": len(held.clips),
        "sample_hours": len(queries.codes_NK) / float(SPEC.frame_rate) / 3600,
        "seeds": found.seeds,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cores": len(os.sched_getaffinity(0)),
        "longest_held_out": max(run.informative if run else 0 for run in found.runs[1][len(samples) :]),
    }


def baselines(pack: Pack, hours: float) -> dict[str, dict[str, float]]:
    train = pack.split("train")[: round(hours * 3600 * SPEC.frame_rate / FRAMES)]
    clips = [np.asarray(pack.read(int(clip))) for clip in train]
    samples = samples_of(pack, pack.split("train"))[0][2:]
    real = sum(map(len, clips)) / float(SPEC.frame_rate) / 3600
    rows = {}
    for name, ask, count in (("dict", by_dict, 16), ("table", by_table, 1), ("suffixes", by_suffixes, 16)):
        began = time.perf_counter()
        longest = ask(clips, samples[:count])
        seconds = time.perf_counter() - began
        heard = count * SAMPLE_FRAMES / float(SPEC.frame_rate) / 3600
        rows[name] = {"per_hour": seconds / real / heard, "hours": real, "seconds": seconds, "longest": max(longest)}
    return rows


def by_dict(clips: list[NDArray[np.uint16]], samples: list[NDArray[np.uint16]]) -> list[int]:
    known: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    texts = [clip[:, 0].tobytes() for clip in clips]
    for number, text in enumerate(texts):
        for at in range(0, len(text) - 2 * NGRAM + 1, 2):
            known[text[at : at + 2 * NGRAM]].append((number, at))
    longest = []
    for sample in samples:
        text, most = sample[:, 0].tobytes(), 0
        for at in range(0, len(text) - 2 * NGRAM + 1, 2):
            for number, there in known.get(text[at : at + 2 * NGRAM], ()):
                size = 2 * NGRAM
                other = texts[number][there:]
                while at + size < len(text) and text[at + size : at + size + 2] == other[size : size + 2]:
                    size += 2
                most = max(most, size // 2)
        longest.append(most)
    return longest


def by_table(clips: list[NDArray[np.uint16]], samples: list[NDArray[np.uint16]]) -> list[int]:
    copies = Copies(clips)
    return [copies._longest(sample[:, 0]) for sample in samples]


def by_suffixes(clips: list[NDArray[np.uint16]], samples: list[NDArray[np.uint16]]) -> list[int]:
    text = np.concatenate([part for clip in clips for part in (clip[:, 0].astype(np.int32) + 1, [0])])
    rank, size = text.astype(np.int64), 1
    while size < 64:  # ranks by the first 64 frames: what is looked for is shorter, or found by its first 64
        after = np.concatenate([rank[size:], np.zeros(size, np.int64)])
        _, rank = np.unique(rank * (rank.max() + 2) + after, return_inverse=True)
        size *= 2
    order = np.argsort(rank, kind="stable")
    padded = np.concatenate([text, np.zeros(64, np.int32)])
    keys = [padded[at : at + 64].astype(">u2").tobytes() for at in order]
    longest = []
    for sample in samples:
        own, most = np.concatenate([sample[:, 0].astype(np.int32) + 1, np.full(64, 2000)]), 0
        for at in range(len(sample)):
            mine = own[at : at + 64].astype(">u2").tobytes()
            low = bisect_left(keys, mine)
            for key in keys[max(0, low - 1) : low + 1]:
                size = next((i for i in range(0, 128, 2) if key[i : i + 2] != mine[i : i + 2]), 128)
                most = max(most, size // 2)
        longest.append(most)
    return longest


if __name__ == "__main__":
    main()

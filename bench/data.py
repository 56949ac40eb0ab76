"""Packs and their draw: how fast, how much memory, and the same batches for every number of ranks. Linux only.

    python bench/data.py                          all parts, some 10 minutes, 6 GB in a temporary folder
    python bench/data.py --only windows --only world --clips 8000 --scratch /somewhere

windows   windows a second, one process, batches of 64: the draw against one .npy file a clip and against the `datasets`
          library on the same codes (rivals.py); raw codes, and grids with a delay pattern. They take turns (the machine
          may be shared), medians of the rounds; the page cache is warm for all.
world     draws (which clip, which frame) a second, and that the global batches are equal for 1, 2, 4 and 8 ranks, after
          a resume at random steps: asserted.
memory    of a fresh process that opens the pack and draws 10,000 grids from it.
million   the same for the index of a million hours: 17 million clips, without their codes.
verify    what checking every clip on its first touch costs, and a full verification.
encode    times real time of every codec (codec_streams.py), one thread.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partimento.tokens.draw import Draw
from partimento.tokens.pack import Pack
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials
from synthetic import BOOKS, make_index, make_pack

WINDOW, BATCH = 512, 64
MILLION_HOURS = 17_000_000  # clips, of some three and a half minutes
Loader = Callable[[int], Any]
PARTS = ("windows", "world", "memory", "million", "verify", "encode")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", action="append", choices=PARTS, help="this part (may be given again)")
    arguments.add_argument("--clips", type=int, default=84_000, help="of the synthetic pack; 84,000 are 256 hours")
    arguments.add_argument("--million", type=int, default=MILLION_HOURS, help="clips of the large index")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--scratch", type=Path, help="where the data are made, and removed")
    arguments.add_argument("--child", nargs=2, metavar=("PART", "PACK"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.child:
        print(json.dumps({"memory": memory_child, "million": million_child}[given.child[0]](Path(given.child[1]))))
        return
    parts = given.only or PARTS
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="partimento-bench", dir=given.scratch) as folder:
        scratch = Path(folder)
        pack = timed(f"a pack of {given.clips:,} clips", lambda: make_pack(scratch / "pack", given.clips))
        for part in parts:
            print(f"\n{part}")
            if part == "windows":
                results[part] = windows(pack, scratch, given.rounds)
            elif part == "world":
                results[part] = world(pack)
            elif part == "verify":
                results[part] = verify(pack.path)
            elif part == "encode":
                results[part] = encode()
            elif part == "memory":
                results[part] = child("memory", pack.path)
            else:
                timed(f"an index of {given.million:,} clips", lambda: make_index(scratch / "million", given.million))
                results[part] = child("million", scratch / "million")
    print()
    print(json.dumps(results))


def timed(what: str, call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = call()
    print(f"{what}: made in {time.perf_counter() - began:.1f} s", flush=True)
    return result


def say(name: str, value: float, unit: str, note: str = "") -> None:
    figure = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    print(f"  {name:<58}{figure:>12} {unit:<14}{note}", flush=True)


# Windows a second -------------------------------------------------------------------------------------------------


def windows(pack: Pack, scratch: Path, rounds: int) -> dict[str, Any]:
    """Windows a second by the clock and by processor time, which neighbours on the machine disturb less."""
    import rivals

    raw = Draw(pack, Pattern.named("parallel", BOOKS), Specials.musicgen(1024), window=WINDOW)
    grids = Draw(pack, Pattern.named("delay", BOOKS), Specials.after(1024), window=WINDOW, null_share=0.1)
    pack.ensure(np.arange(len(pack.clips)))
    paths = timed(f"{len(pack.clips):,} .npy files", lambda: rivals.write_npy(pack, scratch / "npy"))
    rows = (pack.read(clip) for clip in range(len(pack.clips)))
    dataset = timed("the Arrow dataset", lambda: rivals.write_arrow(scratch / "arrow", rows))
    cut = rivals.write_arrow(scratch / "cut", (pack.read(clip, 0, WINDOW) for clip in range(len(pack.clips))))
    shape = (WINDOW, BATCH, BOOKS)
    raw_loaders: dict[str, Loader] = {
        "draw": lambda n: raw.windows(range(n, n + BATCH)),
        ".npy a clip, np.load(mmap_mode='r')": rivals.npy_windows(paths, WINDOW, BATCH, "r"),
        ".npy a clip, np.load": rivals.npy_windows(paths, WINDOW, BATCH, None),
        "datasets, numpy format, row by row": rivals.dataset_windows(dataset, *shape, "rows"),
        "datasets, numpy format, all rows in one call": rivals.dataset_windows(dataset, *shape, "batch"),
        "datasets, arrow format, cropped by hand": rivals.dataset_windows(dataset, *shape, "arrow"),
        "datasets, rows cut before: no random crop": rivals.dataset_windows(cut, *shape, "cut"),
    }
    grid_loaders: dict[str, Loader] = {
        "draw, with tags": lambda n: grids.batch(range(n, n + BATCH)).grid_BSK.numpy(),
        ".npy a clip, np.load(mmap_mode='r'), no tags": rivals.npy_grids(paths, WINDOW, BATCH, BOOKS),
    }
    print("  raw windows of 512 frames x 9 books, uint16")
    found = {"raw": compare(raw_loaders, (BATCH, WINDOW, BOOKS), rounds)}
    print("  grids of 513 rows x 9 books with a delay pattern, int16")
    found["grids"] = compare(grid_loaders, (BATCH, WINDOW + 1, BOOKS), rounds)
    return found


def compare(loaders: dict[str, Loader], shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Loaders take turns; medians of the rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for name, load in loaders.items():
        assert load(0).shape == shape, name
    for number in range(rounds):
        for name, load in loaders.items():
            found[name].append(rates(load, seconds=0.6, first=number * 10**6))
    results = {}
    ours = statistics.median(core for _, core in found["draw" if "draw" in found else "draw, with tags"])
    for name, pairs in found.items():
        clock, core = (statistics.median(column) for column in zip(*pairs, strict=True))
        note = f"{core:>10,.0f} a core second" + ("" if core == ours else f"{ours / core:7.1f} x slower")
        say(name, clock, "windows/s", note)
        results[name] = {"clock": round(clock), "core": round(core)}
    return results


def rates(run: Loader, *, seconds: float, first: int = 0) -> tuple[float, float]:
    """Items a second, by the clock and by the processor time used, of `run`, which makes the batch from item n on."""
    number, began, used = first, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - began) < seconds:
        run(number)
        number += BATCH
    return (number - first) / spent, (number - first) / (time.process_time() - used)


# The same batches for every world ----------------------------------------------------------------------------------


def world(pack: Pack) -> dict[str, Any]:
    def fresh() -> Draw:
        pattern, specials = Pattern.named("delay", BOOKS), Specials.after(1024)
        return Draw(pack, pattern, specials, window=WINDOW, seed=7, null_share=0.1, tag_dropout=0.2, tag_shuffle=True)

    one = fresh()
    alone = rates(lambda n: one.places(range(n, n + BATCH)), seconds=3.0)[0]
    say("draws alone (clip and start), one process", alone, "draws/s")
    steps = [int(step) for step in np.random.default_rng(0).integers(0, 10**7, 100)]
    drawn, began = 0, time.perf_counter()
    for step in steps:
        whole = one.step(step, batch_size=BATCH)
        for ranks in (1, 2, 4, 8):
            resumed = fresh()  # nothing was drawn before: a resume at this step
            parts = [resumed.step(step, batch_size=BATCH, rank=rank, world=ranks) for rank in range(ranks)]
            assert torch.equal(torch.cat([part.grid_BSK for part in parts]), whole.grid_BSK)
            assert torch.equal(torch.cat([part.tags_BG for part in parts]), whole.tags_BG)
            assert torch.equal(torch.cat([part.keep_B for part in parts]), whole.keep_B)
            assert [item for part in parts for item in part.items] == whole.items
            drawn += BATCH
    spent = time.perf_counter() - began
    say("global batches asserted equal (1, 2, 4, 8 ranks)", len(steps), "random steps", f"in {spent:.1f} s")
    places = [one.places(range(step * BATCH, (step + 1) * BATCH)) for step in range(2000)]
    for ranks in (2, 4, 8):
        began, share = time.perf_counter(), BATCH // ranks
        others = [fresh() for _ in range(ranks)]
        for step, (clips, starts) in enumerate(places):
            for rank, other in enumerate(others):
                first = step * BATCH + rank * share
                some_clips, some_starts = other.places(range(first, first + share))
                part = slice(rank * share, (rank + 1) * share)
                assert np.array_equal(some_clips, clips[part]) and np.array_equal(some_starts, starts[part])
        say(
            f"draws of {ranks} ranks in one process, each asserted",
            len(places) * BATCH / (time.perf_counter() - began),
            "draws/s",
        )
    return {"draws_per_second": round(alone), "equal_steps": len(steps), "equal_worlds": [1, 2, 4, 8]}


# Memory, in processes of their own --------------------------------------------------------------------------------


def child(part: str, pack: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", part, str(pack)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    units = {"seconds": "s", "rate": "draws/s", "thousand": "hours x 1000"}
    for name, value in found.items():
        unit = next((unit for word, unit in units.items() if word in name), "MB")
        say(name.replace("_", " "), value, unit)
    return dict(found)


def resident() -> dict[str, float]:
    """MB of this process: private memory (its own), and pages of files that it has mapped (the page cache's)."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    fields = {line[0][:-1]: float(line[1]) / 1024 for line in lines if line[-1] == "kB"}
    return {"own": fields["RssAnon"], "files": fields["RssFile"], "total": fields["VmRSS"], "peak": fields["VmHWM"]}


def memory_child(path: Path) -> dict[str, float]:
    before = resident()
    draw = Draw(Pack.open(path), Pattern.named("delay", BOOKS), Specials.after(1024), window=WINDOW, null_share=0.1)
    opened = resident()
    for first in range(0, 10_000, BATCH):
        draw.batch(range(first, first + BATCH))
    after = resident()
    return {
        "imports_own": before["own"],
        "imports_total": before["total"],
        "opened_own_beyond_imports": opened["own"] - before["own"],
        "drawn_own_beyond_imports": after["own"] - before["own"],
        "drawn_own": after["own"],
        "drawn_mapped_shards_(page_cache)": after["files"] - before["files"],
        "drawn_total": after["total"],
    }


def million_child(path: Path) -> dict[str, float]:
    before, began = resident(), time.perf_counter()
    pack = Pack.open(path)
    opened = time.perf_counter() - began
    draw = Draw(pack, Pattern.named("delay", BOOKS), Specials.after(1024), window=WINDOW)
    draw.places(range(BATCH))
    ready = time.perf_counter() - began
    after = resident()
    near, _ = rates(lambda n: draw.places(range(n, n + BATCH)), seconds=3.0)
    rng = np.random.default_rng(0)
    far, _ = rates(lambda _: draw.places(int(rng.integers(10**12)) + np.arange(BATCH)), seconds=3.0)
    return {
        "hours_thousand": float(pack.spec.seconds(pack.totals["frames"])) / 3.6e6,
        "open_seconds": opened,
        "open_and_first_draw_seconds": ready,
        "own_beyond_imports": after["own"] - before["own"],
        "own_peak_beyond_imports": after["peak"] - before["total"],
        "draws_rate_in_order": near,
        "draws_rate_each_batch_elsewhere": far,
    }


# Verification -----------------------------------------------------------------------------------------------------


def verify(path: Path) -> dict[str, Any]:
    pack = Pack.open(path)
    draw = Draw(pack, Pattern.named("delay", BOOKS), Specials.after(1024), window=WINDOW, null_share=0.1)
    size = sum(shard.bytes for shard in pack.shards.values())
    clips = np.unique(np.concatenate([draw.places(np.arange(draw.slots))[0]]))
    began = time.perf_counter()
    pack.ensure(clips)
    checks = time.perf_counter() - began
    body = np.ascontiguousarray(pack.shard_codes(0))
    began = time.perf_counter()
    zlib.crc32(body.data)
    crc = body.nbytes / (time.perf_counter() - began)
    began = time.perf_counter()
    for first in range(0, draw.slots, BATCH):
        draw.batch(range(first, first + BATCH))
    drawing = time.perf_counter() - began
    began = time.perf_counter()
    assert not Pack.open(path).damage(full=True)
    full = time.perf_counter() - began
    share = checks / (checks + drawing)
    crc_share = size / crc / (checks + drawing)
    say("first epoch: time in verification (crc32, ranges, places)", 100 * share, "%", f"of {checks + drawing:.1f} s")
    say("first epoch: time in crc32 itself", 100 * crc_share, "%", f"at {crc / 1e9:.1f} GB/s")
    say("verification on first touch", size / checks / 1e9, "GB/s")
    say("full verification (sha256, crc32, ranges, tables)", size / full / 1e9, "GB/s", f"{full:.1f} s")
    return {
        "first_epoch_verification_share": round(share, 3),
        "first_epoch_crc32_share": round(crc_share, 3),
        "first_touch_gb_per_second": round(size / checks / 1e9, 2),
        "full_verify_gb_per_second": round(size / full / 1e9, 2),
    }


# Codecs ---------------------------------------------------------------------------------------------------------------


def encode() -> dict[str, Any]:
    """Times real time of one thread, at published sizes with random weights (resident-44k has its own)."""
    import codec_streams

    found = {}
    for geometry in codec_streams.GEOMETRIES:
        with torch.no_grad():
            result = codec_streams.measure(geometry)
        say(
            f"{result.codec}: encode",
            result.encode_x_real_time,
            "x real time",
            f"decode {result.decode_x_real_time:.1f}",
        )
        found[result.codec] = {
            "encode": round(result.encode_x_real_time, 2),
            "decode": round(result.decode_x_real_time, 2),
        }
    return found


if __name__ == "__main__":
    main()

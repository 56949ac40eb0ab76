"""Rubbish for every reader: each input must end in a coded error or in a valid read, soon, in little memory.

    python bench/fuzz.py [--count 10000] [--only NAME] [--seed 0]

Inputs are valid files that were mutated (bits, bytes, cuts, splices, repetitions, extreme numbers; JSON also by its
tree, with its checksum mended so that the reader looks at what is inside) and plain noise. A child process for each
reader runs under a limit of address space and an alarm for each input. A read that succeeds is checked against what is
known of the file: codes that a checksum covers must be the very codes that were written, all others in range.
Prints a table and, last, one JSON line; the exit status is 1 if any input ended in anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fuzz_readers import READERS, Reader, WrongDataError
from partimento import keyed
from partimento.errors import PartimentoError, explanations

SECONDS = 20  # that one input may take on a busy machine
MEMORY = 2 << 30  # bytes of address space beyond what the process has when it begins


def mutate(seed: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One to four accidents."""
    content = bytearray(seed)
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(0, 9))
        size = len(content)
        at = int(rng.integers(0, size)) if size else 0
        if kind == 0 and size:
            content[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and size:
            content[at] = int(rng.integers(0, 256))
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            content[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 4:
            del content[at : at + int(rng.integers(1, 64))]
        elif kind == 5 and size >= 8:  # a number at the extremes, near the front where headers are
            near = int(rng.integers(0, min(size - 7, 128)))
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF])) if width == 1 else 0
            extreme = [0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1]
            value = value or extreme[int(rng.integers(0, len(extreme)))]
            content[near : near + width] = value.to_bytes(width, "little")
        elif kind == 6:
            other = others[int(rng.integers(0, len(others)))]
            cut = int(rng.integers(0, len(other))) if other else 0
            content[at:] = other[cut:]
        elif kind == 7:
            run = bytes(content[at : at + int(rng.integers(1, 256))])
            content[at:at] = run * int(rng.integers(1, 8))
        elif size:
            content = bytearray(rng.bytes(int(rng.integers(0, 400))))
    return bytes(content)


def attack(reader: Reader, count: int, seed: int, box: Any) -> None:
    """In the child: `count` inputs for one reader; tells the outcomes."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    try:
        target = reader.open(folder)
        seeds = target.seeds
        for content in seeds:  # a valid file must be read, or nothing below means anything; and imports happen now
            target.read(content)
        _limit_memory()
        signal.signal(signal.SIGALRM, _hung)
        # Native code prints complaints; they must not fall among the results.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for number in range(count):
            rng = keyed.numpy_rng("fuzz", reader.name, seed, number)
            if target.twist and number % 2:
                content = target.twist(rng)
            else:
                content = mutate(seeds[int(rng.integers(0, len(seeds)))], seeds, rng)
            began = time.monotonic()
            signal.alarm(SECONDS)
            try:
                target.read(content)
                outcomes["valid read"] += 1
            except PartimentoError as err:
                known = err.code in explanations()
                outcomes["coded error" if known else f"unknown code {err.code}"] += 1
            except MemoryError:
                outcomes[f"allocation beyond the limit (input {number})"] += 1
            except _HungError:
                outcomes[f"hang (input {number})"] += 1
            except WrongDataError as err:
                outcomes[f"wrong data: {err} (input {number})"] += 1
            except BaseException as err:
                outcomes[f"{type(err).__name__}: {str(err)[:120]} (input {number})"] += 1
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.monotonic() - began)
            if number % 500 == 499:
                box.send(("at", number + 1))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        box.send(("done", dict(outcomes), slowest, peak))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _limit_memory() -> None:
    if not sys.platform.startswith("linux"):
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


class _HungError(BaseException):
    """Not an Exception, so that no reader can swallow it."""


def _hung(*_: object) -> None:
    raise _HungError


def trial(reader: Reader, count: int, seed: int) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=attack, args=(reader, count, seed, theirs))
    process.start()
    theirs.close()
    outcomes: dict[str, int] = {}
    slowest = peak = 0.0
    reached = 0
    with contextlib.suppress(EOFError):
        while True:
            kind, *values = ours.recv()
            if kind == "at":
                reached = values[0]
            else:
                outcomes, slowest, peak = values
                reached = count
    process.join()
    if process.exitcode or reached < count:
        outcomes[f"the process ended with {process.exitcode} after input {reached}"] = 1
    good = outcomes.pop("valid read", 0)
    coded = outcomes.pop("coded error", 0)
    return {
        "reader": reader.name,
        "inputs": count,
        "coded errors": coded,
        "valid reads": good,
        "failures": sum(outcomes.values()),
        "what": dict(list(outcomes.items())[:5]),
        "slowest_seconds": round(slowest, 2),
        "peak_mb": round(peak),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs for each reader")
    parser.add_argument("--only", help="one reader, by name")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chosen = [reader for reader in READERS if args.only in (None, reader.name)]
    rows = []
    print(f"{'reader':18}{'inputs':>8}{'coded':>8}{'valid':>8}{'failures':>10}{'slowest s':>11}{'peak MB':>9}")
    for reader in chosen:
        row = trial(reader, args.count, args.seed)
        rows.append(row)
        print(
            f"{row['reader']:18}{row['inputs']:>8}{row['coded errors']:>8}{row['valid reads']:>8}{row['failures']:>10}"
            f"{row['slowest_seconds']:>11}{row['peak_mb']:>9}",
            flush=True,
        )
        for what in row["what"]:
            print(f"  {what}")
    failures = sum(row["failures"] for row in rows)
    print(json.dumps({"bench": "fuzz", "seed": args.seed, "rows": rows, "failures": failures}))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

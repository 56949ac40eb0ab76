"""Faults of the disk while partimento publishes: is anything torn or wrong ever visible?

    python bench/faults.py [--publishes 300] [--probability 0.05]

Needs libfiu (Debian: fiu-utils), which makes system calls of a process fail at random. For each fault a child publishes
files over older versions, shards, folders, whole packs and edits of packs, while this process (untouched by the faults)
reads everything visible over and over and checks it against what may stand there. Every refusal must be SYS002.
Prints a table and, last, one JSON line; the exit status is 1 if anything torn or wrong was seen.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np

from partimento import commit, keyed
from partimento.errors import PartimentoError
from partimento.tokens import edits, shards
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

FAULTS = [
    ("ENOSPC in write", "posix/io/rw/write", errno.ENOSPC),
    ("EIO in write", "posix/io/rw/write", errno.EIO),
    ("EIO in fsync", "posix/io/sync/fsync", errno.EIO),
    ("EIO in rename", "posix/io/dir/rename", errno.EIO),
    ("EMFILE in open", "posix/io/oc/open", errno.EMFILE),
]
PRELOAD = Path("/usr/lib/fiu/fiu_posix_preload.so")
READY = "ready" + commit.TMP
KINDS = ("file", "shard", "folder", "pack", "edit")
SPEC = CodecSpec("bench", "0" * 64, 44100, Fraction(44100, 512), (1024,) * 4)


def body(number: int, size: int = 60_000) -> bytes:
    """Bytes that carry their own hash, so that a reader without any record can tell a torn or mixed file."""
    rest = keyed.numpy_rng("fault", number).bytes(size + number % 7919)
    return hashlib.sha256(rest).digest() + rest


def whole(content: bytes) -> bool:
    return content[:32] == hashlib.sha256(content[32:]).digest()


def publish(root: Path, number: int) -> None:
    kind = KINDS[number % len(KINDS)]
    codes_TK = keyed.numpy_rng("codes", number).integers(0, 1024, (200 + number, 4)).astype(np.int64)
    if kind == "file":
        commit.data(root / f"file-{number % 20}", body(number))  # most replace an older version
    elif kind == "shard":
        shards.write(root / "loose", f"shards/{number:06d}.bin", [codes_TK], SPEC.cardinalities)
    elif kind == "folder":
        with commit.folder(root / f"folder-{number}") as tmp:
            (tmp / "a").write_bytes(body(number))
            (tmp / "b").write_bytes(body(number + 1))
    elif kind == "pack":
        writer = PackWriter(root / f"pack-{number}", SPEC, clips_per_shard=2)
        for clip in range(3):
            writer.add(codes_TK[clip * 10 :], clip=f"clip {clip}", tags=["a"], source=str(clip))
        writer.finish()
    else:
        edits.edit(root / "edited", {"clip 1": {"tags": [f"tag {number}"]}}, why="bench")


def child(root: Path, point: str, code: int, probability: float, publishes: int) -> None:
    """Publish under faults. They begin after all imports and end before anything is reported."""
    fiu = ctypes.CDLL("libfiu.so.0")
    fiu.fiu_enable_random.argtypes = [
        ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_float
    ]  # fmt: skip
    outcomes: Counter[str] = Counter()
    publish(root, 3)  # all that is imported on first use is there now
    (root / READY).touch()
    for number in range(5, publishes + 5):
        fiu.fiu_enable_random(point.encode(), 1, code, 0, probability)
        try:
            publish(root, number)
            outcomes["published"] += 1
        except PartimentoError as err:
            outcomes[err.code] += 1
        except Exception as err:
            outcomes[f"{type(err).__name__}: {err}"] += 1
        finally:
            fiu.fiu_disable(point.encode())
    print(json.dumps(outcomes))


def look(root: Path) -> list[str]:
    """Everything visible that is torn or wrong."""
    wrong = []
    for path in sorted(root.iterdir()):
        if commit.TMP in path.name:
            continue
        try:
            if path.name.startswith(("file-", "folder-")):
                files = [path / "a", path / "b"] if path.is_dir() else [path]
                wrong += [str(file) for file in files if not whole(file.read_bytes())]
            elif path.name.startswith(("pack-", "edited")) and (path / "pack.json").exists():
                Pack.open(path, verify="full")
            elif path.name == "loose":
                wrong += [f"{path.name}/{file.name}" for file in _torn_shards(path)]
        except (PartimentoError, OSError) as err:
            wrong.append(f"{path.name}: {err}")
    return wrong


def _torn_shards(pack: Path) -> list[Path]:
    torn = []
    for file in sorted((pack / "shards").glob("*.bin")):
        if commit.TMP in file.name:
            continue
        number = int(file.stem)
        codes_TK = keyed.numpy_rng("codes", number).integers(0, 1024, (200 + number, 4)).astype(np.uint16)
        content = file.read_bytes()
        if content[shards.HEADER_BYTES : -4] != codes_TK.tobytes():
            torn.append(file)
    return torn


def start(command: list[str], root: Path) -> subprocess.Popen[str]:
    """A child that is past its imports. libfiu's own lock sometimes blocks while libraries load: then another try."""
    # Not through fiu-run, which preloads one more library and makes that happen nearly always.
    environment = {**os.environ, "LD_PRELOAD": str(PRELOAD)}
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        ended = time.monotonic() + 30
        while time.monotonic() < ended and process.poll() is None:
            if (root / READY).exists():
                return process
            time.sleep(0.02)
        if process.poll() is not None:
            return process
        process.kill()
        process.wait()


def trial(name: str, point: str, code: int, probability: float, publishes: int) -> dict[str, object]:
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        writer = PackWriter(root / "edited", SPEC)
        for clip in range(3):
            writer.add(np.full((50, 4), clip), clip=f"clip {clip}", source=str(clip))
        writer.finish()
        command = [sys.executable, __file__, "--child", str(root), point, str(code), str(probability), str(publishes)]
        process = start(command, root)
        looks, wrong = 0, []
        while process.poll() is None:
            wrong += look(root)
            looks += 1
        wrong += look(root)
        assert process.stdout is not None
        outcomes = json.loads(process.stdout.read() or "{}")
        published = outcomes.pop("published", 0)
        refused = outcomes.pop("SYS002", 0)
        return {
            "fault": name,
            "publishes": publishes,
            "published": published,
            "refused": refused,
            "other errors": outcomes if process.returncode == 0 else {f"exit {process.returncode}": 1, **outcomes},
            "looks": looks + 1,
            "torn or wrong": len(wrong),
            "first": wrong[:1],
        }
    finally:
        shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        root, point, code, probability, publishes = sys.argv[2:]
        child(Path(root), point, int(code), float(probability), int(publishes))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publishes", type=int, default=300, help="for each fault")
    parser.add_argument("--probability", type=float, default=0.05, help="that a system call fails")
    args = parser.parse_args()
    if not PRELOAD.is_file():
        sys.exit(f"{PRELOAD} is not here: install libfiu (Debian, Ubuntu: apt install fiu-utils)")
    rows = [trial(*fault, args.probability, args.publishes) for fault in FAULTS]
    print(f"{'fault':18}{'publishes':>10}{'published':>10}{'SYS002':>8}{'other':>7}{'looks':>7}{'torn or wrong':>15}")
    for row in rows:
        others = sum(row["other errors"].values())  # type: ignore[attr-defined]
        print(
            f"{row['fault']:18}{row['publishes']:>10}{row['published']:>10}{row['refused']:>8}{others:>7}"
            f"{row['looks']:>7}{row['torn or wrong']:>15}"
        )
        for error in [*row["other errors"], *row["first"]]:  # type: ignore[misc]
            print(f"  {error}")
    good = all(not row["torn or wrong"] and not row["other errors"] for row in rows)
    print(json.dumps({"bench": "faults", "probability": args.probability, "rows": rows, "good": good}))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

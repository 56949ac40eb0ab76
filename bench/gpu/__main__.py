"""Runs every check in a process of its own, prints one table and one JSON line.

A process each, because a CUDA error spoils everything after it in the same process, and so that a check can be ended
when its time is over. What it had reported by then is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu import MISSING, STAND_INS

# In the order of what is wanted most; seconds that a check may take, and below which it is not begun.
CHECKS = {
    "ground": (40, 5),
    "steps": (40, 10),
    "parity": (90, 20),
    "training": (170, 20),
    "resume": (40, 15),
    "playing": (120, 15),
    "sound": (90, 20),
    "codec": (50, 15),
    "peers": (120, 30),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description="Every check that wants a GPU.")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a test of the checks, not of the device")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all checks together")
    parser.add_argument("--only", default="", help="names of checks, with commas: " + ", ".join(CHECKS))
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name] or list(CHECKS)
    if unknown := set(wanted) - set(CHECKS):
        parser.error(f"no check {sorted(unknown)}; there are {', '.join(CHECKS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here: PyTorch finds no CUDA device, and nothing was checked.")
        print("`bench/gpu.sh --device cpu --quick` runs the checks' own code on this CPU.")
        print(json.dumps({"bench": "gpu", "gpu": None, "results": []}))
        return 0
    print(f"packages that are missing: {', '.join(MISSING) or 'none'}; stand-ins: {', '.join(STAND_INS) or 'none'}")
    end = time.time() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(folder) / "compiled"))
        rows = [row for name in wanted for row in run(name, given.device, given.quick, end)]
    failed = [row for row in rows if row["ok"] is False]
    unseen = sum(row["note"].startswith(("skipped", "ended")) for row in rows)
    print(
        f"{len(rows)} rows, {unseen} skipped or ended by time, {len(failed)} failed"
        + "".join(f"\n  {row['check']}: {row['case']}" for row in failed)
    )
    gpu = torch.cuda.get_device_name(0) if given.device == "cuda" else "cpu"
    print(json.dumps({"bench": "gpu", "gpu": gpu, "torch": torch.__version__, "quick": given.quick, "results": rows}))
    return 1 if failed else 0


def run(name: str, device: str, quick: bool, end: float) -> list[dict[str, Any]]:
    """The rows of one check, printed as it ends."""
    limit, least = CHECKS[name]
    left = min(limit, end - time.time())
    rows: list[dict[str, Any]]
    if left < (least if not quick else 0):
        rows = [{"case": "all", "value": None, "unit": "", "ok": None, "note": "skipped: the time is used up"}]
    else:
        rows = _rows(name, device, quick, left)
    for row in rows:
        row["check"] = name
        if row["case"].startswith("rate "):
            rates = json.loads(os.environ.get("GPU_BENCH_RATES", "{}")) | {row["case"][5:]: row["value"]}
            os.environ["GPU_BENCH_RATES"] = json.dumps(rates)
        print(line(row), flush=True)
    return rows


def _rows(name: str, device: str, quick: bool, left: float) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", f"gpu.{name}", "--device", device, "--until", str(time.time() + left)]
    began, note = time.time(), ""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command + ["--quick"] * quick, stdout=out, stderr=err)
        try:
            status = child.wait(timeout=left + 5)
        except subprocess.TimeoutExpired:
            child.kill()
            status, note = child.wait(), "ended: its time was used up"
        out.seek(0)
        err.seek(0)
        rows = [json.loads(text) for text in out.read().decode().splitlines() if text.startswith("{")]
        last = [text for text in err.read().decode(errors="replace").splitlines() if text.strip()][-3:]
    if status != 0:
        # An end by time is no failure of what was checked; an error is.
        note = note or f"status {status}: " + " | ".join(last)
        rows.append({"case": "whole", "value": None, "unit": "", "ok": None if "time" in note else False, "note": note})
    rows.append({"case": "seconds", "value": round(time.time() - began, 1), "unit": "s", "ok": None, "note": ""})
    return rows


def line(row: dict[str, Any]) -> str:
    value = row["value"]
    shown = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    verdict = {True: "ok", False: "FAIL", None: ""}[row["ok"]]
    return f"{row['check']:<9} {row['case']:<52} {shown:>10} {row['unit']:<14} {verdict:<5} {row['note']}".rstrip()


if __name__ == "__main__":
    sys.exit(main())

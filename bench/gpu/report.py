"""What a check is told, and how it reports: one JSON object a line on stdout, read by the parent while it runs."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from partimento.training import devices


@dataclass(frozen=True)
class Bench:
    """`rates`: FLOP/s by precision and bytes/s under "memory", as `ground` measured them ({} if it did not)."""

    device: torch.device
    quick: bool
    until: float
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until this check is ended."""
        return self.until - time.time()


def row(case: str, value: Any = None, unit: str = "", ok: bool | None = None, note: str = "") -> None:
    """`ok` None is a figure without a verdict. A skipped case has no value, and its note says why."""
    print(json.dumps({"case": case, "value": value, "unit": unit, "ok": ok, "note": note}), flush=True)


def skipped(case: str, why: str) -> None:
    row(case, note=f"skipped: {why}")


def close(case: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Greatest difference relative to the largest expected value (at least 1), against a tolerance."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    # NaN where one of them is: it fails every comparison.
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    row(case, difference, "relative", difference <= tolerance, f"tolerance {tolerance:g}")


def same(case: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit for bit."""
    wrong = [name for name in expected if not torch.equal(_bits(found[name]), _bits(expected[name]))]
    wrong += sorted(found.keys() ^ expected.keys())
    row(case, len(wrong), "tensors differ", not wrong, wrong[0] if wrong else "bitwise")


def _bits(tensor: Tensor) -> Tensor:
    """As bytes: a NaN is equal to itself there."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def timed(bench: Bench, run: Callable[[], object], least: float = 1.0, most: int = 200) -> float:
    """Seconds of one call, over as many as fit about `least` seconds. Call it before: it is not warmed up here."""
    devices.synchronise(bench.device)
    began = time.perf_counter()
    run()
    devices.synchronise(bench.device)
    once = time.perf_counter() - began
    times = max(1, min(most, int(least / max(once, 1e-6))))
    began = time.perf_counter()
    for _ in range(times):
        run()
    devices.synchronise(bench.device)
    return (time.perf_counter() - began) / times


def main(check: Callable[[Bench], None]) -> None:
    """The entry of a check's own process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--until", type=float, required=True)
    given = parser.parse_args()
    rates = json.loads(os.environ.get("GPU_BENCH_RATES", "{}"))
    check(Bench(devices.pick(given.device), given.quick, given.until, rates))

"""Resume bit for bit on one device with deterministic kernels: 6 steps at once, and 3 and 3 with all reloaded."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu.report import Bench, main, row, same
from gpu.step import TINY, Size, Training, grid
from partimento.training import devices

SMALL = Size(256, 6, 4)


def check(bench: Bench) -> None:
    size, window = (TINY, 16) if bench.quick else (SMALL, 256)
    modes = ("eager", "compiled", "graphs") if bench.cuda else ("eager",)
    with devices.reproducible(bench.device, deterministic=True):
        for name in ("adamw", "muon"):
            for precision in ("fp32", "bf16"):
                for mode in modes if name == "adamw" else ("eager",):
                    resumed(bench, size, window, name, precision, mode)


def resumed(bench: Bench, size: Size, window: int, name: str, precision: str, mode: str) -> None:
    def made() -> Training:
        return Training(bench.device, size, window, name=name, precision=precision, mode=mode, dropout=0.1)

    def steps(training: Training, first: int, last: int) -> list[Tensor]:
        # Two micro-batches: their order of adding is part of what must be the same.
        parts = [[grid(size, 2, window, 2 * number + micro) for micro in range(2)] for number in range(6)]
        return [training.step(n, *(training.inputs(part) for part in parts[n])) for n in range(first, last)]

    case = f"{name} {precision} {mode}"
    whole = made()
    losses = steps(whole, 0, 6)
    half = made()
    steps(half, 0, 3)
    stored = {key: value.cpu() for key, value in half.state().items()}
    fresh = made()
    fresh.load({key: value.to(bench.device) for key, value in stored.items()})
    after = steps(fresh, 3, 6)
    equal = all(torch.equal(a, b) for a, b in zip(losses[3:], after, strict=True))
    row(f"{case}: losses after the resume", int(equal), "equal", equal, "bitwise")
    same(f"{case}: weights, moments, guard", fresh.state(), whole.state())


if __name__ == "__main__":
    main(check)

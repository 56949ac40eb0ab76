"""Bad steps on the device: skipped bitwise without trace, by AdamW and by Muon, and judged without waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu.report import Bench, main, row, same, skipped
from gpu.step import TINY, Size, Training, grid

SMALL = Size(128, 4, 4)


def check(bench: Bench) -> None:
    size, window = (TINY, 16) if bench.quick else (SMALL, 128)
    for name in ("adamw", "muon"):
        for label, spoil in (("NaN", float("nan")), ("infinite", float("inf"))):
            skips(bench, size, window, name, label, spoil)
    outlier(bench, size, window)
    without_waiting(bench, size, window)


def made(bench: Bench, size: Size, window: int, name: str = "adamw") -> tuple[Training, tuple[Tensor | None, ...]]:
    training = Training(bench.device, size, window, name=name)
    inputs = training.inputs(grid(size, 2, window))
    for number in range(2):
        training.step(number, inputs)
    return training, inputs


def skips(bench: Bench, size: Size, window: int, name: str, label: str, spoil: float) -> None:
    training, inputs = made(bench, size, window, name)
    twin, _ = made(bench, size, window, name)
    before = _learned(training.state())
    training.step(2, inputs, spoil=spoil)
    same(f"{name}: a step with {label} gradients leaves every bit", _learned(training.state()), before)
    for one in (training, twin):
        one.step(3, inputs)
    # Not bitwise: a GPU's sums are not in a fixed order here (`resume` is where they are).
    worst = max(float((a - b).abs().max()) for a, b in zip(training.parameters, twin.parameters, strict=True))
    row(f"{name}: and the next step is that of a run without it", worst, "largest", worst < 1e-3, "tolerance 1e-3")


def _learned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("guard ")}


def outlier(bench: Bench, size: Size, window: int) -> None:
    training, inputs = made(bench, size, window)
    for number in range(2, 70):
        training.step(number, inputs)
    before = _learned(training.state())
    training.step(70, inputs, spoil=1000.0)
    same("a gradient x1000 is skipped", _learned(training.state()), before)
    row("skipped steps that the guard counted", int(training.guard.figures()[0]), "", bool(training.guard.figures()[0]))


def without_waiting(bench: Bench, size: Size, window: int) -> None:
    """torch raises where a call would wait for the device."""
    if not bench.cuda:
        skipped("a whole step never waits for the device", "needs CUDA")
        return
    for name in ("adamw", "muon"):
        for precision in ("fp32", "bf16"):
            training = Training(bench.device, size, window, name=name, precision=precision)
            inputs = training.inputs(grid(size, 2, window))
            for number in range(2):
                training.step(number, inputs)
            torch.cuda.synchronize()
            waited = ""
            torch.cuda.set_sync_debug_mode("error")
            try:
                training.step(2, inputs)
            except RuntimeError as err:
                waited = str(err).splitlines()[0]
            finally:
                torch.cuda.set_sync_debug_mode("default")
            case = f"a whole step never waits for the device ({name}, {precision})"
            row(case, 0 if not waited else 1, "waits", not waited, waited)


if __name__ == "__main__":
    main(check)

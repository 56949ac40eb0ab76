"""Training steps of the reference size: frames a second, MFU against the measured rate, memory; in every mode."""

from __future__ import annotations

import gc
import time

import torch

from gpu.report import Bench, main, row, skipped, timed
from gpu.step import REFERENCE, TINY, Size, Training, grid
from partimento.training import devices, speed

TOKENS = 32768  # of a step, where the memory is there
BYTES_A_TOKEN = 2.5e6  # of activations, eager, float32, about


def check(bench: Bench) -> None:
    size = TINY if bench.quick else REFERENCE
    windows = (16, 40) if bench.quick else (512, 1280)
    modes = ("eager", "compiled", "compiled+graphs") if bench.cuda else ("eager", "compiled")
    for precision, window in (("bf16", windows[0]), ("bf16", windows[1]), ("fp32", windows[0]), ("fp32", windows[1])):
        for mode in modes:
            if bench.quick and mode == "compiled" and (precision, window) != ("bf16", windows[0]):
                continue
            measured(bench, size, window, _batch(bench, window), precision, mode)
    # Few tokens: here the host that launches kernels is what is slow, and a recording shows.
    for mode in ("eager", "graphs", "compiled+graphs") if bench.cuda else ("eager",):
        measured(bench, size, windows[0], 2, "bf16", mode)
    if not bench.cuda:
        skipped("graphs", "needs CUDA")


def _batch(bench: Bench, window: int) -> int:
    if bench.quick:
        return 2
    memory = torch.cuda.get_device_properties(bench.device).total_memory if bench.cuda else 2e9
    return max(1, int(min(TOKENS, 0.6 * memory / BYTES_A_TOKEN)) // window)


def measured(bench: Bench, size: Size, window: int, batch: int, precision: str, mode: str) -> None:
    case = f"{size} ctx {window} batch {batch} {precision} {mode}"
    if bench.left() < 25 and not bench.quick:
        skipped(case, "no time left")
        return
    devices.reset_peak(bench.device)
    _measured(bench, size, window, batch, precision, mode, case)
    gc.collect()  # a recording and its training refer to each other
    if bench.cuda:
        torch.cuda.empty_cache()


def _measured(bench: Bench, size: Size, window: int, batch: int, precision: str, mode: str, case: str) -> None:
    recompiles, began = speed.Recompiles(), time.perf_counter()
    with devices.precise(bench.device, precision):
        training = Training(bench.device, size, window, precision=precision, mode=mode)
        inputs = training.inputs(grid(size, batch, window))
        for number in range(3):
            training.step(number, inputs)
        devices.synchronise(bench.device)
        ready, warm = time.perf_counter() - began, recompiles.count
        seconds = timed(bench, lambda: training.step(3, inputs), 0.1 if bench.quick else 2.0, 50)
    flops = speed.flops_per_item(training.decoder, window)
    row(case, batch * window / seconds, "frames/s", note=f"{1e3 * seconds:.1f} ms a step, ready in {ready:.0f} s")
    share = speed.mfu(batch / seconds, flops, bench.rates.get(precision))
    if share is not None:
        peak = speed.mfu(batch / seconds, flops, speed.peak(bench.device, precision))
        row(f"{case}: MFU", share, "of measured", note="" if peak is None else f"{peak:.3f} of the vendor's peak")
    later = recompiles.count - warm
    row(f"{case}: graphs compiled", recompiles.count, "", later == 0, f"{later} of them after the third step")
    if "peak_bytes" in (memory := devices.memory(bench.device)) and bench.cuda:
        row(f"{case}: memory", memory["peak_bytes"] / 2**30, "GiB", note=f"{memory['retries']} retries")


if __name__ == "__main__":
    main(check)

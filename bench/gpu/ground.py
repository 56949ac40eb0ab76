"""What the machine is, and how fast its matrix units and its memory really are: all else is held against that."""

from __future__ import annotations

import torch

from gpu.report import Bench, main, row, timed
from partimento.training import devices, speed


def check(bench: Bench) -> None:
    with devices.precise(bench.device, "fp32"):
        for name, value in devices.describe(bench.device).items():
            row(name, value)
    if bench.cuda:
        properties = torch.cuda.get_device_properties(bench.device)
        row("memory of the device", properties.total_memory / 2**30, "GiB")
        row("CUDA", torch.version.cuda or "", note=f"cuDNN {torch.backends.cudnn.version()}")
    size, seconds = (256, 0.05) if bench.quick else (8192, 1.0)
    for precision in ("bf16", "tf32", "fp32"):
        rate = speed.matmul_rate(bench.device, precision, size, seconds)
        peak = speed.peak(bench.device, precision)
        of = "" if peak is None else f"{100 * rate / peak:.0f} % of the vendor's {peak / 1e12:.0f} TFLOP/s"
        row(f"product {size} {precision}", rate / 1e12, "TFLOP/s", note=of)
        row(f"rate {precision}", rate, "FLOP/s")
    length = 2**20 if bench.quick else 2**28
    source = torch.zeros(length, dtype=torch.float32, device=bench.device)
    target = torch.empty_like(source)
    target.copy_(source)
    spent = timed(bench, lambda: target.copy_(source), 0.05 if bench.quick else 0.5)
    row("rate memory", 2 * 4 * length / spent, "bytes/s", note="copy, reads and writes")


if __name__ == "__main__":
    main(check)

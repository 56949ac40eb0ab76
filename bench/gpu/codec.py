"""The resident codec: codes of the GPU are those of the CPU, waves are the same to rounding, and how fast it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gpu.report import Bench, close, main, row, timed
from partimento.codecs.resident import load_resident
from partimento.keyed import torch_generator
from partimento.training import devices


def music(seconds: float, sample_rate: int) -> Tensor:
    """[1, 1, N]: chords with decay over a little noise."""
    time_N = torch.arange(int(seconds * sample_rate), dtype=torch.float64) / sample_rate
    wave = 0.003 * torch.randn(len(time_N), generator=torch_generator("wave"), dtype=torch.float64)
    for beat in range(int(2 * seconds)):
        since_N = (time_N - beat / 2).clamp(min=0)
        for note in (0, 4 + beat % 2, 7, 12):
            pitch = 220 * 2 ** ((note + beat % 5) / 12)
            wave = wave + 0.1 * torch.sin(2 * math.pi * pitch * since_N) * torch.exp(-6 * since_N) * (since_N > 0)
    return wave.float()[None, None]


def check(bench: Bench) -> None:
    seconds = 1.0 if bench.quick else 20.0
    cpu = load_resident()
    here = load_resident(device=bench.device)
    rate = cpu.spec.sample_rate
    wave = music(seconds, rate)
    expected = cpu.encode(wave)
    found = here.encode(wave.to(bench.device)).cpu()
    wrong = int((found != expected).sum())
    row(f"codes that differ from the CPU's, of {expected.numel()}", wrong, "codes", wrong == 0, "float64")
    with devices.precise(bench.device, "fp32"):
        close("wave against the CPU's", here.decode(expected.to(bench.device)), cpu.decode(expected), 1e-4)
    batch = 1 if bench.quick else 8
    waves, codes = wave.to(bench.device).repeat(batch, 1, 1), expected.to(bench.device).repeat(batch, 1, 1)
    here.encode(waves)
    spent = timed(bench, lambda: here.encode(waves), 0.1 if bench.quick else 2.0, 20)
    row(f"encode, batch {batch}", batch * seconds / spent, "x real time")
    here.decode(codes)
    spent = timed(bench, lambda: here.decode(codes), 0.1 if bench.quick else 2.0, 50)
    row(f"decode, batch {batch}", batch * seconds / spent, "x real time")


if __name__ == "__main__":
    main(check)

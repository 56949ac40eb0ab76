"""Checks of the machine: the device and its precision, the disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from partimento import commit
from partimento.lab.plan.memory import checkpoint_bytes, disk_bytes
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, warned
from partimento.training import devices
from partimento.training.groups import claim

SPARE_DISK = 200_000_000  # bytes beside the checkpoints: demos, events, report


def device_ready(bench: Bench) -> Check:
    """The device is there, and can do what the configuration asks of it."""
    plan, device = bench.config.train, bench.device
    found = f"{devices.name(device)}, {plan.precision}"
    if plan.cuda_graphs and device.type != "cuda":
        return failed("device", f"{found}: train.cuda_graphs needs a CUDA device", "train.cuda_graphs=false")
    compiling = device.type in ("cuda", "tpu") if plan.compile is None else plan.compile
    if compiling and device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return failed("device", f"{found}: compiling needs a C++ compiler", "install g++, or train.compile=false")
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if plan.precision == "bf16" and emulated:
        return failed("device", f"{found}: this GPU has no bfloat16", "train.precision=fp32")
    if plan.precision == "fp32" and device.type == "cuda":
        return warned("device", f"{found}: its matrix units are not used", "train.precision=bf16, or tf32")
    return passed("device", found)


def disk_writable(bench: Bench) -> Check:
    """Runs can be written, and there is room for the checkpoints that will be kept."""
    with commit.disk_errors(bench.runs):
        bench.runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="preflight", suffix=commit.TMP, dir=bench.runs) as folder:
            commit.data(Path(folder) / "probe", b"x" * 4096)
    free = shutil.disk_usage(bench.runs).free
    rival = bench.task.rival
    rivals = [] if rival is None else claim(rival.module, rival.optim)
    one = checkpoint_bytes(bench.task.module, bench.optimizer.claims, bench.config, rivals)
    need = SPARE_DISK + disk_bytes(one, bench.config)
    found = (
        f"{free / 1e9:.1f} GB free in {bench.runs}, about {need / 1e9:.2f} GB needed, {one / 1e6:.0f} MB a checkpoint"
    )
    if free > need:
        return passed("disk", found)
    return failed("disk", found, "free some space, choose another --runs folder, or set train.keep=2")

"""Which device, in which precision, and how reproducible: the only place that knows.

CPU, CUDA, MPS (Apple) and TPU (torch_tpu, the extra `[tpu]`) are reached through the same calls; "xla" (torch_xla) is
known for `bench/xla` and is never a setting of a run.

Precision. `fp32` is float32 to the last bit of its products: TF32, which PyTorch allows in cuDNN by default, is off.
`tf32` lets a GPU's matrix units round the factors of float32 products to 10 bits. `bf16` runs the products of the
network in bfloat16 over float32 weights; what autocast leaves in float32 (norms, losses, transforms) was left there on
purpose, so it stays float32 without TF32.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

import torch

from partimento.errors import PartimentoError

PRECISIONS = ("fp32", "tf32", "bf16")
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_REMEDY = {
    "tpu": "pip install 'partimento[tpu]' on the TPU's own machine (Python 3.12), or set train.device=auto",
    "xla": "pip install torch_xla, or set train.device=auto",
}


def pick(wanted: str, local_rank: int = 0) -> torch.device:
    """The device of this process; "auto" takes cuda, then tpu, mps, cpu. `local_rank` chooses among several.

    Makes a CUDA device the current one: streams, graphs and collectives are made on that. Raises TRAIN005 if a device
    that was asked for is not there.
    """
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "tpu", "mps", "cpu") if _count(name))
    count = _count(wanted)
    if not count:
        raise PartimentoError(
            "TRAIN005",
            f"there is no {wanted} device here",
            why="PyTorch was built without it, or its driver does not answer",
            next=_REMEDY.get(wanted, "train.device=auto takes what is there"),
        )
    if wanted in ("cuda", "tpu") and local_rank >= count:
        raise PartimentoError(
            "TRAIN005",
            f"process {local_rank} of this machine has no {wanted} device: there are {count}",
            next=f"start {count} processes on this machine (--nproc {count})",
        )
    if wanted == "cuda":
        torch.cuda.set_device(local_rank)
    if wanted == "xla":
        return _torch_xla().device()
    return torch.device(wanted, local_rank) if wanted in ("cuda", "tpu") else torch.device(wanted)


def _count(kind: str) -> int:
    """How many devices of this kind answer."""
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "xla":
        return int(importlib.util.find_spec("torch_xla") is not None)
    # torch_tpu registers itself as torch.tpu when torch is imported.
    tpu = getattr(torch, "tpu", None) if importlib.util.find_spec("torch_tpu") else None
    return int(tpu.device_count()) if tpu is not None and tpu.is_available() else 0


def _torch_xla() -> Any:
    return importlib.import_module("torch_xla")


def describe(device: torch.device) -> dict[str, Any]:
    """JSON facts that the bits of a run depend on besides its keys: device, name, capability, threads, torch, flags.

    To be called where the run computes (inside `reproducible` and `precise`), so that the flags are those of the run.
    """
    return {
        "device": device.type,
        "name": name(device),
        "capability": _capability(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tf32": device.type != "cpu" and tf32(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def name(device: torch.device) -> str:
    """The device's own name ("NVIDIA H200"); its type where it has none."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "tpu":
        return str(torch.get_device_module("tpu").get_device_name())
    return device.type


def _capability(device: torch.device) -> str:
    """Compute capability of a GPU; on a CPU the instructions that torch's kernels use, which round differently."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else device.type


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 runs matrix products in bfloat16 over float32 weights; losses stay float32 because tasks compute them so.

    On MPS bfloat16 needs macOS 14; torch says so itself.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def precise(device: torch.device, precision: str) -> Iterator[None]:
    """Float32 products in float32, or in TF32 where `precision` is "tf32"; afterwards as it was.

    Through the two setters that keep torch's old and new switches equal. Setting `fp32_precision` of one backend alone
    leaves them unequal, and then torch refuses to say what holds: `torch.backends.cudnn.flags` (codecs) and the
    compiler raise. On a CPU nothing is set: float32 is float32 there.
    """
    if device.type == "cpu":
        yield
        return
    products, layers = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = layers


def tf32() -> bool:
    """Whether float32 matrix products or cuDNN layers may run in TF32 now."""
    return torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32


@contextlib.contextmanager
def reproducible(device: torch.device, deterministic: bool = False) -> Iterator[None]:
    """Deterministic algorithms, and the caller's global generators as they were when this began.

    A CPU always has them; a GPU if `deterministic`. There it costs speed, refuses what has no such kernel, and cuBLAS
    needs its workspace fixed before its first use in the process, so enter this before anything runs on the device.
    """
    memory: Any = torch.utils.deterministic
    cudnn: Any = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, kernels, workspace = memory.fill_uninitialized_memory, cudnn.deterministic, os.environ.get(_WORKSPACE)
    forked = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked, device_type="cuda"):
        try:
            if device.type == "cpu" or deterministic:
                torch.use_deterministic_algorithms(True)
                memory.fill_uninitialized_memory = False  # a fill for every empty(); no bits depend on it
            if device.type == "cuda" and deterministic:
                cudnn.deterministic = True
                if workspace not in (":4096:8", ":16:8"):
                    os.environ[_WORKSPACE] = ":4096:8"
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            memory.fill_uninitialized_memory, cudnn.deterministic = fill, kernels
            if workspace is None:
                os.environ.pop(_WORKSPACE, None)
            else:
                os.environ[_WORKSPACE] = workspace


def seed(device: torch.device, number: int) -> None:
    """Seed the generators of the host and of the device (0 <= number < 2**63)."""
    torch.manual_seed(number)
    if device.type == "xla":
        _torch_xla().manual_seed(number, device)  # the one device that torch's own call does not reach


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type in ("mps", "tpu"):
        torch.get_device_module(device.type).synchronize()
    elif device.type == "xla":
        _torch_xla().sync(wait=True)


def memory(device: torch.device) -> dict[str, int]:
    """Bytes: {"peak_bytes", "reserved_bytes", "retries"} on CUDA since `reset_peak`; {"peak_bytes"} on a CPU (of the
    whole process, since it began); {"reserved_bytes"} on MPS, which keeps no peak; {} elsewhere.

    Retries count how often the allocator had to give memory back and ask again: above 0 the device is full.
    """
    if device.type == "cuda":
        stats = torch.cuda.memory_stats(device)
        return {
            "peak_bytes": int(stats.get("allocated_bytes.all.peak", 0)),
            "reserved_bytes": int(stats.get("reserved_bytes.all.peak", 0)),
            "retries": int(stats.get("num_alloc_retries", 0)),
        }
    if device.type == "mps":
        return {"reserved_bytes": int(torch.mps.driver_allocated_memory())}
    if device.type == "cpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return {}


def reset_peak(device: torch.device) -> None:
    """Begin the peak of `memory` anew, where the device keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

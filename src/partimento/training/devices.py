"""Which device, in which precision, and how reproducible: the only place that knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from partimento.errors import PartimentoError


def pick(wanted: str) -> torch.device:
    """ "auto" takes cuda, then mps, then cpu. Raises TRAIN005 if a device that was asked for is not there."""
    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, there in have.items() if there)
    if not have[wanted]:
        raise PartimentoError(
            "TRAIN005",
            f"there is no {wanted} device here",
            why="PyTorch was built without it, or its driver does not answer",
            next="train.device=auto takes what is there",
        )
    return torch.device(wanted, 0) if wanted == "cuda" else torch.device(wanted)


def describe(device: torch.device) -> dict[str, Any]:
    """{"device", "name", "threads"}: what the bits of a run depend on besides its keys."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 runs matrix products in bfloat16 over float32 weights; losses stay float32 because tasks compute them so."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms on the CPU, and the caller's global generators as they were when this began."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        try:
            if device.type == "cpu":
                torch.use_deterministic_algorithms(True)
                memory.fill_uninitialized_memory = False  # a fill for every empty(); no bits depend on it
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            memory.fill_uninitialized_memory = fill

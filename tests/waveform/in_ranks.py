"""Several ranks as threads of one process, whose `total` sums a tensor over all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def in_ranks(world: int, work: Callable[[int, Callable[[Tensor], Tensor]], Result]) -> list[Result]:
    """work(rank, total) of every rank, in order. An error in one of them is raised."""
    barrier = threading.Barrier(world, timeout=60)
    given: list[Tensor] = [torch.empty(0)] * world
    results: list[Result | None] = [None] * world
    errors: list[BaseException] = []

    def one(rank: int) -> None:
        def total(tensor: Tensor) -> Tensor:
            given[rank] = tensor
            barrier.wait()
            found = torch.stack(given).sum(0)
            barrier.wait()  # nobody gives its next tensor before all have summed
            return found

        try:
            results[rank] = work(rank, total)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results  # type: ignore[return-value]

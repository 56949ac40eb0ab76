"""Batches on their way to the device: the next step's are drawn while this one is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

Draw = Callable[[int, int], Sequence[Any]]


class Feed:
    """`next(step, attempt)` gives `draw(step, attempt)`, which a thread has prepared if the steps come in order.

    What is drawn is a function of its arguments alone, so preparing it early, or in vain, changes nothing.
    """

    def __init__(self, draw: Draw, steps: int) -> None:
        self.draw, self.steps = draw, steps
        self.waited = 0.0
        """Seconds that the training has stood still for its data."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._wanted: tuple[int, int] | None = None
        self._coming: Future[Sequence[Any]] | None = None

    def next(self, step: int, attempt: int) -> Sequence[Any]:
        """Raises what drawing raises, at the step that it concerns."""
        began = time.perf_counter()
        if self._coming is None or self._wanted != (step, attempt):
            self._ask(step, attempt)
        assert self._coming is not None
        batches = self._coming.result()
        self.waited += time.perf_counter() - began
        self._coming = None
        if step + 1 < self.steps:
            self._ask(step + 1, attempt)
        return batches

    def _ask(self, step: int, attempt: int) -> None:
        self._wanted = (step, attempt)
        self._coming = self._thread.submit(self.draw, step, attempt)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for it. From pinned memory: a copy from any other would be waited for."""
    if device.type == "cpu":
        return tensor
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

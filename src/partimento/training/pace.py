"""How fast a training goes, and what it waits for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from partimento.training import devices, speed
from partimento.training.feed import Feed
from partimento.training.stages import Settings
from partimento.training.state import State


class Pace:
    """Durations of the steps since the last line of the log, without what stands between them (`aside`).

    The host runs ahead of a GPU, so a single duration is that of launching a step; their mean is measured at the
    scheduled read, which waits for the device.
    """

    def __init__(self, state: State) -> None:
        self.task, self.config, self.device = state.task, state.config, state.device
        self.feed: Feed | None = None
        self.recompiles = speed.Recompiles()
        self._peak = speed.peak(self.device, self.config.train.precision)
        self._world = state.parallel.world
        self._clock = speed.Clock()
        self._steps = 0
        self._spent = self._aside = self._waited = 0.0
        self._last: float | None = None

    def begin(self) -> None:
        """A step begins; the first one starts the clock."""
        if self._last is None:
            self._last = time.perf_counter()

    def tick(self) -> None:
        """A step is over, for the host."""
        now, waited = time.perf_counter(), self.feed.waited if self.feed is not None else 0.0
        if self._last is not None:
            seconds = now - self._last - self._aside
            self._clock.add(seconds, waited - self._waited)
            self._spent += seconds
            self._steps += 1
        self._last, self._aside, self._waited = now, 0.0, waited

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is done here is not part of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._aside += time.perf_counter() - began

    def read(self, stage: Settings) -> dict[str, Any]:
        """Figures of the steps since the last reading; call it right after the device was waited for."""
        now = time.perf_counter()
        if not self._steps or self._last is None:
            return {}
        # The wait for the device at this reading belongs to the steps that it finished.
        seconds = (self._spent + now - self._last) / self._steps
        self._last, self._spent, self._steps = now, 0.0, 0
        clock = self._clock.read()
        items = stage.batch * stage.accumulate / seconds
        flops = self.task.flops(stage.window)
        return {
            "seconds": seconds,
            "seconds_p50": clock["step_p50"],
            "seconds_p99": clock["step_p99"],
            "data_wait": clock["data_wait_share"],
            "frames_per_second": items * self.task.frames(stage.window),
            "mfu": None if flops is None else speed.mfu(items / self._world, flops, self._peak),
            "recompiles": self.recompiles.count,
            **devices.memory(self.device),
        }

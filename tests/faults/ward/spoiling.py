"""Ways to spoil a training of codes behind its back: rates, losses, codes, and the time that a batch takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from partimento.errors import PartimentoError
from partimento.tokens.draw import Batch
from partimento.training import engine
from partimento.training.tasks.codes import CodesTask
from ward import toys


def given_up(folder: Path, work: Callable[[], Path]) -> Path:
    """The run of a training that may end with TRAIN004."""
    try:
        return work()
    except PartimentoError as err:
        if err.code != "TRAIN004":
            raise
    return folder / "run"


def hot(folder: Path, factor: Callable[[int], float], **sections: Any) -> Path:
    """The rate of each step is multiplied behind the back of the log."""
    step_with = engine.train_step
    with toys.playing() as patch:

        def heated(state: Any, batches: Any, step: int, rate: float) -> None:
            step_with(state, batches, step, rate * factor(step))

        patch.setattr(engine, "train_step", heated)
        return given_up(folder, lambda: toys.train(folder, **sections))


class Garbage(CodesTask):
    """All codes of one step are drawn anew."""

    at = 160

    def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
        batch = super().batch(step, micro, attempt)
        if step != self.at:
            return batch
        drawn = torch.randint_like(batch.grid_BSK, toys.V)
        return replace(batch, grid_BSK=torch.where(batch.grid_BSK < toys.V, drawn, batch.grid_BSK))


def scaled(when: Callable[[int], bool], factor: float) -> type[CodesTask]:
    """The loss of some steps is multiplied, and its gradient with it."""

    class Scaled(CodesTask):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.factor = 1.0
            self.objective.register_forward_hook(
                lambda module, _, out: (out[0] * self.factor, out[1]) if module.training else out
            )

        def batch(self, step: int, micro: int, attempt: int = 0) -> Any:
            return step, super().batch(step, micro, attempt)

        def count(self, batch: Any) -> float:
            return super().count(batch[1] if isinstance(batch, tuple) else batch)

        def inputs(self, batch: Any) -> Any:
            step, batch = batch if isinstance(batch, tuple) else (-1, batch)
            self.factor = factor if when(step) else 1.0
            return super().inputs(batch)

    return Scaled


def loaded(folder: Path, times: Callable[[int], float]) -> Path:
    """A batch takes so many times as long as a step: by the clock of the steps, so that it is slow on every machine."""
    step_with, took = engine.train_step, [0.01]

    class Slow(CodesTask):
        def batch(self, step: int, micro: int, attempt: int = 0) -> Batch:
            time.sleep(times(step) * took[0])
            return super().batch(step, micro, attempt)

    with toys.playing() as patch:

        def timed(*args: Any) -> None:
            began = time.perf_counter()
            step_with(*args)
            took[0] = min(0.1, time.perf_counter() - began)

        patch.setattr(engine, "train_step", timed)
        return toys.train(folder, steps=60, task=Slow, data={"window": 16}, optim={"batch": 2})

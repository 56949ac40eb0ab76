"""A few real steps on this machine, and what they say of the whole run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from partimento.config import Config
from partimento.keyed import key
from partimento.lab.plan import cost
from partimento.lab.plan.sketch import Sketch
from partimento.progress import Progress
from partimento.training import compiled, devices
from partimento.training.optim import Optimizers
from partimento.training.stages import Settings
from partimento.training.task import Rival, Task
from partimento.training.tasks import make_task

WARM_UP, STEPS = 2, 4


@dataclass(frozen=True)
class Measured:
    """`seconds` of a micro-batch of every stage with its share of the optimizer's step (median; a stage in which an
    adversary begins counts as two), and the `hours` of the whole run at that pace on this one device, without
    validation, demos and saving."""

    device: str
    seconds: list[float]
    hours: float
    teraflops: float


def measure_steps(drawn: Sketch, progress: Progress) -> Measured:
    """Train for a few steps in every stage and forget it all. Raises what making the task raises, and TRAIN005."""
    config = drawn.config
    device = devices.pick(config.train.device)
    silent = config.model_copy(update={"demo": config.demo.model_copy(update={"temperatures": []})})
    spent, parts = [], _parts(drawn)
    with devices.reproducible(device, config.train.deterministic), devices.precise(device, config.train.precision):
        devices.seed(device, key(config.train.seed, "weights"))
        task = make_task(silent, device)
        players = [_Player(one, config, device) for one in (task.rival, task) if one is not None]
        task.start()
        compiled.prepare(task.objective, config.train, device)
        for number, (stage, first, last) in enumerate(parts):
            progress.stage("measure", f"{WARM_UP + STEPS} steps of part {number + 1} of {len(parts)}")
            seconds = []
            for step in range(WARM_UP + STEPS):
                began = time.perf_counter()
                place = min(first + step, last - 1)
                batches = [task.batch(place, micro) for micro in range(stage.accumulate)]
                for player in players:
                    if player.plays(place):
                        player.step([task.inputs(batch) for batch in batches])
                devices.synchronise(device)
                seconds.append(time.perf_counter() - began)
                progress.update(step + 1, WARM_UP + STEPS)
            spent.append(sorted(seconds[WARM_UP:])[STEPS // 2] / stage.accumulate)
    whole = sum(
        (last - first) * stage.accumulate * each for (stage, first, last), each in zip(parts, spent, strict=True)
    )
    items = zip(cost.stage_items(drawn), cost.item_flops(drawn), strict=True)
    flops = sum(number * each for number, each in items)
    return Measured(devices.name(device), spent, whole / 3600, flops / whole / 1e12)


def _parts(drawn: Sketch) -> list[tuple[Settings, int, int]]:
    """(stage, first step, end) of what has a pace of its own: a stage, cut where the adversary begins."""
    rival = drawn.sounding.rival if drawn.sounding is not None else None
    ends = [*(stage.start for stage in drawn.stages[1:]), drawn.config.train.steps]
    found = []
    for stage, end in zip(drawn.stages, ends, strict=True):
        cut = min(max(stage.start, rival.start), end) if rival is not None else end
        found += [(stage, first, last) for first, last in ((stage.start, cut), (cut, end)) if first < last]
    return found


class _Player:
    """One of the players, with its optimizer."""

    def __init__(self, player: Task | Rival, config: Config, device: torch.device) -> None:
        self.objective = player.objective.to(device).train()
        self.plays = player.plays if isinstance(player, Rival) else lambda step: True
        self.optimizer = Optimizers(player.module, player.optim if isinstance(player, Rival) else config.optim)
        self._calm = torch.zeros((), dtype=torch.bool, device=device)
        self._device, self._precision = device, config.train.precision

    def step(self, micros: Sequence[tuple[Tensor | None, ...]]) -> None:
        self.optimizer.zero_grad()
        for inputs in micros:
            with devices.autocast(self._device, self._precision):
                total, sums = self.objective(*inputs)
            (total / sums["tokens"]).backward()
        self.optimizer.step(self._calm, 1e-3)  # a rate at which nothing can go wrong in so few steps

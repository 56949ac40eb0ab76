"""A few real steps on this machine, and what they say of the whole run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from partimento.keyed import key
from partimento.lab.plan import cost
from partimento.lab.plan.sketch import Sketch
from partimento.progress import Progress
from partimento.training import compiled, devices
from partimento.training.optim import Optimizers
from partimento.training.tasks import make_task

WARM_UP, STEPS = 2, 4


@dataclass(frozen=True)
class Measured:
    """`seconds` of a micro-batch of every stage with its share of the optimizer's step (median), and the `hours` of the
    whole run at that pace on this one device, without validation, demos and saving."""

    device: str
    seconds: list[float]
    hours: float
    teraflops: float


def measure_steps(drawn: Sketch, progress: Progress) -> Measured:
    """Train for a few steps in every stage and forget it all. Raises what making the task raises, and TRAIN005."""
    config = drawn.config
    device = devices.pick(config.train.device)
    silent = config.model_copy(update={"demo": config.demo.model_copy(update={"temperatures": []})})
    spent = []
    with devices.reproducible(device, config.train.deterministic), devices.precise(device, config.train.precision):
        devices.seed(device, key(config.train.seed, "weights"))
        task = make_task(silent, device)
        objective = task.objective.to(device).train()
        task.start()
        compiled.prepare(objective, config.train, device)
        optimizer = Optimizers(task.module, config.optim)
        calm = torch.zeros((), dtype=torch.bool, device=device)
        for number, stage in enumerate(drawn.stages):
            progress.stage("measure", f"{WARM_UP + STEPS} steps of stage {number + 1} of {len(drawn.stages)}")
            seconds = []
            for step in range(WARM_UP + STEPS):
                began = time.perf_counter()
                optimizer.zero_grad()
                for micro in range(stage.accumulate):
                    batch = task.batch(min(stage.start + step, config.train.steps - 1), micro)
                    with devices.autocast(device, config.train.precision):
                        total, sums = objective(*task.inputs(batch))
                    (total / sums["tokens"]).backward()
                optimizer.step(calm, 1e-3)  # a rate at which nothing can go wrong in so few steps
                devices.synchronise(device)
                seconds.append(time.perf_counter() - began)
                progress.update(step + 1, WARM_UP + STEPS)
            spent.append(sorted(seconds[WARM_UP:])[STEPS // 2] / stage.accumulate)
    micros = [items / stage.batch for items, stage in zip(cost.stage_items(drawn), drawn.stages, strict=True)]
    whole = sum(number * each for number, each in zip(micros, spent, strict=True))
    flops = sum(n * s.batch * f for n, s, f in zip(micros, drawn.stages, cost.item_flops(drawn), strict=True))
    return Measured(devices.name(device), spent, whole / 3600, flops / whole / 1e12)

"""What the checks share: the configuration, its data and model once they are made, a short training on one batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partimento.config import Config, RvqConfig
from partimento.keyed import key
from partimento.models.mixture import MixtureModel
from partimento.runs.run import Run
from partimento.training import devices
from partimento.training.built import Decoder
from partimento.training.objective import decoder_of
from partimento.training.optim import Optimizers, clip_global_, total_norm
from partimento.training.task import Direction, Task
from partimento.training.tasks import make_task
from partimento.training.tasks.codes import CodesTask

ITEMS = 2
"""Items of a micro-batch here: what is checked does not depend on their number, and a large batch takes long."""
PROBE_STEPS = 30
WARM_UP = 10
CANDIDATES = 64  # batches among which one with, or without, a dropped condition is looked for


@dataclass
class Probe:
    """A training on one batch at the peak rate: mean losses before each step, gradient norms, and whether all was
    finite (it ends where it is not). `moved` is how far the matrices went, as a multiple of their size at the start
    (median over the matrices that were not zero), `still` names the trained parameters that are as they were, and
    `changed` the frozen ones that are not."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    finite: bool = True
    moved: float = 0.0
    still: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def fall(self) -> float:
        """Share of its first value by which the loss fell."""
        return 1 - self.losses[-1] / self.losses[0]


class Bench:
    """`run` is the run that is to be resumed, or None."""

    def __init__(self, config: Config, runs: Path, run: Run | None = None) -> None:
        self.config, self.runs, self.run = config, runs, run
        self.device = devices.pick(config.train.device)
        self.failed: set[str] = set()
        """Names of the checks that failed so far."""

    @cached_property
    def task(self) -> Task:
        """The task with small batches, without demos (they have a check of their own). Raises what the data raises."""
        config = self.config
        small = {"batch": min(ITEMS, config.optim.batch)}
        stages = [
            stage.model_copy(update={"batch": stage.batch and min(ITEMS, stage.batch)}) for stage in config.train.stages
        ]
        config = config.model_copy(
            update={
                "optim": config.optim.model_copy(update=small),
                "train": config.train.model_copy(update={"stages": stages}),
                "demo": config.demo.model_copy(update={"temperatures": []}),
            }
        )
        devices.seed(self.device, key(config.train.seed, "weights"))
        task = make_task(config, self.device)
        task.objective.to(self.device).train()
        task.start()
        return task

    @property
    def made(self) -> bool:
        """Whether the task could be made."""
        return "task" in self.__dict__

    @property
    def codes(self) -> CodesTask | None:
        """The task, if it is one of codes."""
        return self.task if isinstance(self.task, CodesTask) else None

    @property
    def decoder(self) -> Decoder | None:
        return None if self.codes is None else decoder_of(self.codes.module)

    @property
    def mixture(self) -> MixtureModel | None:
        """The model, if it is one with a backbone that has learned text before, and codes never."""
        return self.task.module if isinstance(self.task.module, MixtureModel) else None

    @property
    def weights(self) -> str | None:
        """The folder of weights for these codes that the training starts from; None from scratch."""
        return None if isinstance(self.config, RvqConfig) else self.config.model.weights

    def loss(self, batch: Any, direction: Direction | None = None) -> Tensor:
        """Mean over the valid tokens, with its graph, as the engine computes it; or one of the losses alone that it
        adds up."""
        devices.seed(self.device, key(self.config.train.seed, "preflight"))
        inputs = self.task.inputs(batch) if direction is None else direction.inputs(batch)
        with devices.autocast(self.device, self.config.train.precision):
            total, sums = self.task.objective(*inputs)
        return total / sums["tokens"]

    def batch(self, number: int) -> Any:
        """Batch `number` of the run. Past the last step of a short run come the items of another attempt, which are
        others."""
        attempt, step = divmod(number, self.config.train.steps)
        return self.task.batch(step, 0, attempt)

    def batch_where(self, kept: bool) -> Any:
        """The first batch whose items all keep their condition, or the first one of which an item lost it; batch 0
        where there is none."""
        task = self.codes
        if task is None:
            return self.batch(0)
        batches = (self.batch(number) for number in range(CANDIDATES))
        return next((one for one in batches if bool(task.condition(one)[1].all()) == kept), self.batch(0))

    @cached_property
    def optimizer(self) -> Optimizers:
        """Raises TRAIN010 to TRAIN013."""
        return Optimizers(self.task.module, self.config.optim)

    @cached_property
    def probe(self) -> Probe:
        """PROBE_STEPS real steps on one batch: the optimizers of the run at their peak rates, clipping, a warm-up."""
        optim, probe = self.config.optim, Probe()
        batch = self.batch_where(kept=True)
        calm = torch.zeros((), dtype=torch.bool, device=self.device)
        parameters = [one.parameter for one in self.optimizer.claims]
        matrices = [weight.detach() for weight in parameters if weight.ndim > 1]
        before, prints = [weight.clone() for weight in matrices], self._prints()
        warm_up = min(WARM_UP, optim.warmup)
        for step in range(PROBE_STEPS):
            self.optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()
            gradients = [weight.grad for weight in parameters if weight.grad is not None]
            norm = total_norm(gradients)
            probe.losses.append(float(loss.detach()))
            probe.norms.append(float(norm))
            if not torch.isfinite(norm + loss.detach()):
                probe.finite = False
                break
            clip_global_(gradients, torch.ones_like(norm), norm, optim.clip)
            self.optimizer.step(calm, min(1.0, (step + 1) / (warm_up + 1)))
        self.optimizer.zero_grad()
        # Adapters begin at zero, and have no size to be compared with.
        pairs = [(now, was) for now, was in zip(matrices, before, strict=True) if bool(was.any())]
        ratios = [(now - was).norm() / was.norm() for now, was in pairs]
        probe.moved = float(torch.stack(ratios).median()) if ratios else 0.0
        trained = {one.name for one in self.optimizer.claims}
        same = {name for name, value in self._prints().items() if value == prints[name]}
        probe.still, probe.changed = sorted(trained & same), sorted(prints.keys() - trained - same)
        return probe

    @torch.no_grad()
    def _prints(self) -> dict[str, tuple[float, float]]:
        """Two sums over every parameter, which tell whether it changed."""
        named = self.task.module.named_parameters()
        return {name: (float(w.double().sum()), float(w.double().square().sum())) for name, w in named}

"""What the engine needs to know of a family: where its batches come from, its loss, how it is judged and heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from partimento.config import Optim

Sums: TypeAlias = Mapping[str, Tensor]
Using: TypeAlias = Callable[[str], AbstractContextManager[nn.Module]]
Total: TypeAlias = Callable[[Tensor], Tensor]
ITEMS = "items"  # in what `Task.evaluate` gives: runs.judged.Items, which are kept beside the log and not in it


@dataclass(frozen=True)
class Direction:
    """One of the losses that a step adds up. `inputs(batch)` are `Task.inputs` of the same items with no other loss in
    them; `reaches` says what it has to teach: {what: names of parameters, one of which at least gets a gradient}."""

    what: str
    inputs: Callable[[Any], tuple[Tensor | None, ...]]
    reaches: Mapping[str, Sequence[str]]


def alone(sums: Tensor) -> Tensor:
    """The sum over all devices where there is one."""
    return sums


@dataclass(frozen=True)
class Rival:
    """The second player of a training: a module that learns to tell what the task's module makes from what is real.

    `objective(*task.inputs(batch))` gives (total, sums) as `Task.objective`, with no gradient for the task's module.
    `optim` is how it is trained; it plays from step `start` on, at every `every`-th step. `figures` as Task.figures.
    """

    module: nn.Module
    objective: nn.Module
    optim: Optim
    start: int
    every: int
    figures: Callable[[Mapping[str, Any]], dict[str, Any]]

    def plays(self, step: int) -> bool:
        return step >= self.start and (step - self.start) % self.every == 0

    def ramp(self, step: int) -> float:
        """In [0, 1]: how far it is taken in, over as many steps as the warm-up has; 0 before it plays.

        A start at step 0 has the schedule's warm-up anyway.
        """
        if self.start == 0:
            return 1.0
        return min(1.0, max(0.0, (step - self.start + 1) / max(1, self.optim.warmup)))


class Task(Protocol):
    """One family's side of a training.

    Everything random is a function of (seed, attempt, step, micro, item), through `keyed`, so that a resumed run
    repeats the very same batches; nothing is drawn from the global generators except inside `objective` (dropout),
    where the engine seeds them. A task is made with them seeded too, so initial weights may be drawn as PyTorch does.
    """

    identity: dict[str, Any]
    """JSON facts of the data (fingerprint of the pack, hashes of the files). A resume with other values is refused."""
    history: list[dict[str, Any]]
    """What was done to the data after it was made (`Pack.history`; empty where nothing can be), for that refusal."""
    description: dict[str, Any]
    """JSON that a reader needs to rebuild the module from a checkpoint without the data; stored in `state.json`."""
    notes: list[str]
    """What a person should know before the first step."""
    score: str
    """Name of the value of `evaluate` by which checkpoints are compared; lower is better."""

    rival: Rival | None
    """The adversary, where there is one. It steps before the task's module does, which then meets it as it is."""

    @property
    def attentions(self) -> int:
        """How often self attention is called in one pass, at least, where gradients are kept; 0: not known."""

    @property
    def directions(self) -> Sequence[Direction]:
        """Losses that are to be looked at one by one, because what one does not reach the others may."""

    @property
    def module(self) -> nn.Module:
        """Everything that is trained or saved, as one module. The engine moves it to the device and owns its mode."""

    @property
    def objective(self) -> nn.Module:
        """`objective(*inputs(batch))` runs module and loss: (total, sums).

        `total` is the sum of the loss over the valid tokens (0-D, float32): the engine divides its gradients by the
        valid tokens of the whole optimizer step, so that accumulation and devices change nothing. `sums` are float32
        tensors of fixed shapes that add up over micro-batches, devices and steps; sums["tokens"] are the valid tokens.
        sums["opinions"], where there is one, is the part of `total` that an adversary is the judge of.
        Its parameters are the module's, and it is the one thing that is wrapped for several devices, or recorded.
        """

    def start(self) -> None:
        """Before the first step of a new training, never on a resume: initialisation from data, e.g. by k-means."""

    def batch(self, step: int, micro: int, attempt: int = 0) -> Any:
        """This rank's part of micro-batch `micro` (0-based) of optimizer step `step` (0-based), on the host.

        `attempt` counts the rollbacks of the run: another attempt draws other items. May be called in another thread.
        """

    def inputs(self, batch: Any) -> tuple[Tensor | None, ...]:
        """What `objective` takes, on the device. Shapes change at the stages of the curriculum only."""

    def count(self, batch: Any) -> float:
        """Valid tokens of the batch, known on the host: a step without any is refused before it is computed."""

    def flops(self, window: int) -> float | None:
        """FLOPs of such an item in training, forward and backward (`speed.flops_per_item`). None where layers work at
        different rates, or a second player works too: the share of the device's peak is not known then."""

    def frames(self, window: int) -> float:
        """Codec frames of an item whose window (or crop) is so long, for the frames per second that are logged."""

    def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """What is logged of the sums (numbers, or lists where the tensor has one dimension) since the last line."""

    def after_step(self, step: int, bad: Tensor, sums: Sums, total: Total = alone) -> None:
        """After optimizer step `step` (0-based), before the weights are averaged: codebooks, restarts, loss weights.

        `bad` (0-D bool, on the device) says that the step was skipped: then nothing may change. `sums` are those of
        the step, over all devices; `total` sums a tensor over them, in place.
        """

    def unreached(self) -> Mapping[str, str]:
        """Trained parameters that may get no gradient, as they are meant to, and why, in a few words."""

    def memory(self) -> dict[str, Tensor]:
        """State of the training that is no weight; saved with the guard. `remember` is the inverse."""

    def remember(self, tensors: Mapping[str, Tensor]) -> None: ...

    def evaluate(self, total: Total = alone) -> dict[str, Any]:
        """Figures of the held-out items with the weights that are in the module, in eval mode without gradients.

        Every rank evaluates its share, in the same number of forward passes; `total` sums a tensor over all ranks.
        Under ITEMS may be what each of the items came to.
        """

    def baselines(self) -> dict[str, Any]:
        """Figures that need no training, logged once a run as event "baseline"; {} if there are none."""

    def demos(self, root: Path, step: int, using: Using) -> Path | None:
        """Play into `root/step-N` (not there yet; committed by rename) and return it, or None if nothing is played.
        Its demos.json is a `runs.demos` sheet, whose figures are logged.

        `with using("ema") as module` gives the module with the averaged weights ("raw": with the others), in eval mode
        without gradients. It may be a copy: with sharded weights one rank plays, and the others wait.
        """

"""The second player of a training, beside `State`, which is the first: the same steps, on weights of its own.

It has no averaged weights, which nobody would play with. Rooms of the checkpoint: adversary, adversary_optimizer, and
its share of guard.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from partimento.config import Config
from partimento.training import devices
from partimento.training.ema import copy_into, named_state
from partimento.training.guards import Guard
from partimento.training.meter import Meter
from partimento.training.optim import Optimizers
from partimento.training.parallel import Parallel
from partimento.training.task import Rival


class Opponent:
    """What `engine.optimizer_step` needs of a player, for a task's rival."""

    adagc = None

    def __init__(self, rival: Rival, config: Config, parallel: Parallel) -> None:
        self.rival, self.optim = rival, rival.optim
        self.module, self.device, self._precision = rival.module, parallel.device, config.train.precision
        self.model = parallel.wrap(rival.objective, rival.module, config.train)
        self.optimizer = Optimizers(rival.module, rival.optim)
        self.parameters = [weight for weight in rival.module.parameters() if weight.requires_grad]
        self.guard = Guard(config.guard, parallel.device)
        self.meter = Meter()

    def forward_backward(self, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """As `State.forward_backward`."""
        with devices.autocast(self.device, self._precision):
            total, sums = self.model(*inputs)
        total.backward()
        return total.detach(), {name: value.detach() for name, value in sums.items()}

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Rooms of a checkpoint, live tensors."""
        return {"adversary": named_state(self.module), "adversary_optimizer": self.optimizer.state()}

    def memory(self) -> dict[str, dict[str, Tensor]]:
        """Rooms within the part guard."""
        return {"adversary_guard": self.guard.state(), "adversary_meter": self.meter.state()}

    def load(self, parts: Mapping[str, Mapping[str, Tensor]], memory: Mapping[str, Mapping[str, Tensor]]) -> None:
        """The inverse of `parts` and `memory`; raises TRAIN003."""
        copy_into(named_state(self.module), parts["adversary"])
        self.optimizer.load(parts["adversary_optimizer"])
        self.guard.load(memory["adversary_guard"])
        self.meter.load(memory["adversary_meter"], self.device)

"""What a step of a sound family keeps and computes, with its second player: measured on a short piece of one item.

Its networks are convolutions over samples or frames: memory and operations grow evenly with the length, so a step on
one short wave, on the CPU, tells them all. Transforms (FFT) are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from partimento.config import SoundConfig
from partimento.lab.plan.trace import Kept, trace
from partimento.models.linear import HAS_ONEDNN
from partimento.training.stages import Settings, stages
from partimento.training.task import Rival
from partimento.training.tasks.sound import DISTANCES, OPINIONS, SoundObjective, rival
from partimento.waveform.discriminators import Discriminators

PROBE = 8192  # samples, or the whole crop if that is shorter


class Inputs(Protocol):
    def __call__(self, samples: int) -> tuple[Tensor, ...]:
        """What the objective takes for one item of so many samples, but for the weights of its parts."""


@dataclass(frozen=True)
class Passes:
    """Operations of one player's pass over the probe, forward and backward, and what it keeps in between."""

    kept: Kept
    flops: float


class Sounding:
    """The players of a configuration: `alone` without an adversary, `heard` with its opinion, `rival` its own step."""

    def __init__(self, config: SoundConfig, objective: SoundObjective, second: Rival | None, inputs: Inputs) -> None:
        self.objective, self.rival, self._inputs = objective, second, inputs
        self._networks = [objective.network, *([second.module] if second is not None else [])]
        self.samples = min(PROBE, *(stage.window for stage in stages(config)))

    def with_settings(self, config: SoundConfig) -> Rival | None:
        """The second player as `config` trains it."""
        return None if self.rival is None else rival(config, self.objective, cast(Discriminators, self.rival.module))

    def item_flops(self, stage: Settings, end: int) -> float:
        """Mean over the steps of a stage that ends before step `end`: those in which the adversary plays take more."""
        scale = stage.window / self.samples
        if self.rival is None:
            return scale * self.alone.flops
        steps = end - stage.start
        playing = max(0, end - max(stage.start, self.rival.start))
        found = (steps - playing) * self.alone.flops if playing < steps else 0.0
        if playing:
            judged = sum(self.rival.plays(step) for step in range(stage.start, end))
            found += playing * self.heard.flops + judged * (self.judging.flops - self.made_before)
        return scale * found / max(1, steps)

    def kept(self, stage: Settings, precision: str) -> Kept:
        """Of the player that keeps more, at the scale of a stage's items; the players' steps follow each other."""
        known = [self.alone] if self.rival is None else [self.heard, self.judging]
        if precision == "bf16":
            known = [self._pass(one, "bf16") for one in self._objectives()]
        most = max(known, key=lambda one: one.kept.activations())
        return replace(most.kept, items=self.samples / stage.window)

    @cached_property
    def alone(self) -> Passes:
        return self._pass((self.objective, len(DISTANCES)), "fp32")

    @cached_property
    def heard(self) -> Passes:
        return self._pass((self.objective, len(DISTANCES + OPINIONS)), "fp32")

    @cached_property
    def judging(self) -> Passes:
        assert self.rival is not None
        return self._pass((self.rival.objective, len(DISTANCES + OPINIONS)), "fp32")

    @cached_property
    def made_before(self) -> float:
        """What the second player makes already, and the first need not make again."""
        if self.rival is None or not getattr(self.rival.objective, "keeps", False):
            return 0.0
        with _counter() as counter:  # with gradients, as it is made in training
            self.objective.make(*self._inputs(self.samples))
        return float(counter.get_total_flops())

    def _objectives(self) -> list[tuple[nn.Module, int]]:
        if self.rival is None:
            return [(self.objective, len(DISTANCES))]
        parts = len(DISTANCES + OPINIONS)
        return [(self.objective, parts), (self.rival.objective, parts)]

    def _pass(self, player: tuple[nn.Module, int], precision: str) -> Passes:
        objective, parts = player
        inputs = (*self._inputs(self.samples), torch.ones(parts), None)
        counting = precision != "bf16"  # as many as in float32
        with _counter() as counter:
            kept = trace(objective.train(), inputs, 1.0, precision, beside=self._networks, backward=counting)
        self.objective.kept = None
        for part in objective.parameters():
            part.grad = None
        return Passes(kept, float(counter.get_total_flops()) if counting else 0.0)


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_ours())


def _ours() -> dict[Any, Any]:
    """torch does not know oneDNN's products, by which linear layers compute on a CPU (`models.linear`)."""
    return {torch.ops.mkldnn._linear_pointwise: _product_flops} if HAS_ONEDNN else {}


def _product_flops(x_shape: torch.Size, weight_shape: torch.Size, *rest: Any, **named: Any) -> int:
    return 2 * x_shape.numel() * weight_shape[0]

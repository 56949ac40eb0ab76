"""What the configuration says that the optimizers do: rates by name and step, and how far weights can have gone.

One owner of the schedule is `training.schedule`, of the stages `training.stages`; the rule by which a group of names
has a rate of its own is that of `training.groups`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from partimento.config import Config, Optim
from partimento.lab.doctor.weights.profile import Profile
from partimento.training import schedule
from partimento.training.stages import settings_at, stages

MOST_SAMPLES = 4096


def peak(name: str, kind: str, optim: Optim) -> float:
    """The rate of a tensor at the top of the schedule; `kind` is "adamw" or "muon"."""
    base = optim.muon_lr if kind == "muon" else optim.lr
    for group in optim.groups:
        if re.search(group.pattern, name):
            return base * group.lr
    return base


def decay(name: str, shape: tuple[int, ...], optim: Optim) -> float:
    """The most that its weights can decay: what the group says, or `weight_decay` of a matrix."""
    for group in optim.groups:
        if re.search(group.pattern, name) and group.weight_decay is not None:
            return group.weight_decay
    return optim.weight_decay if len(shape) > 1 else 0.0


class Course:
    """The share of the peak rates at the steps so far. `step` have been made, `state` is the checkpoint's; of a long
    training MOST_SAMPLES steps are looked at. What a rollback changed is taken to hold from the beginning."""

    def __init__(self, config: Config, state: Mapping[str, Any]) -> None:
        self.optim, self.step = config.optim, int(state["step"])
        factor = float(config.guard.rollback_lr ** len(state.get("rollbacks", ())))
        steps = config.train.steps
        places = np.unique(np.linspace(0, max(0, self.step - 1), min(MOST_SAMPLES, max(1, self.step))).astype(int))
        several = len(stages(config)) > 1
        self.shares = np.array(
            [
                schedule.shape(int(at), config.optim, steps) * (settings_at(config, int(at)).lr if several else 1.0)
                for at in places
            ]
        )
        self.shares *= factor

    @property
    def last(self) -> float:
        """At the last step that was made."""
        return float(self.shares[-1])

    @property
    def highest(self) -> float:
        """So far."""
        return float(self.shares.max())

    @property
    def path(self) -> float:
        """Sum of the shares of all steps so far: times a peak rate, how far one weight went if it never turned."""
        return float(self.shares.mean()) * self.step


def muon_rms(shape: tuple[int, ...]) -> float:
    """Root mean square of Muon's update at a rate of 1: an orthogonal R x C matrix times sqrt(max(1, R / C))."""
    rows, columns = shape[0], math.prod(shape[1:])
    return math.sqrt(max(1.0, rows / columns) / max(rows, columns))


def way(one: Profile, course: Course) -> float:
    """How far a number of this weight can have gone, root mean square, if it never turned."""
    muon = one.momentum is not None
    rate = peak(one.name, "muon" if muon else "adamw", course.optim)
    return rate * course.path * (muon_rms(one.shape) if muon else 1.0)

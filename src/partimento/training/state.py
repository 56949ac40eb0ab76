"""Everything that a training is between two steps, and how it goes into a checkpoint and comes out again.

A resumed run continues bit for bit (same device, precision and number of threads), because whatever is drawn is a
function of the step, and all else is here: weights, averaged weights, moments, and the counters below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import partimento
from partimento.config import Config, config_hash, parse
from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.training import devices
from partimento.training.ema import Ema, copy_into, judged, named_state
from partimento.training.optim import load_state_by_name, make_optimizer, state_by_name
from partimento.training.task import Task

# What a resumed run may change: how often it looks and saves, where it computes, what it plays. All else changes
# the weights or makes scores incomparable. `data.pack` and `data.folders` may move: their contents are what counts.
FREE = (
    "data.pack",
    "data.folders",
    "train.log_every",
    "train.valid_every",
    "train.save_every",
    "train.keep",
    "train.max_minutes",
    "train.device",
    "demo.",
)


@dataclass
class Counters:
    """Plain numbers that are saved with the weights."""

    step: int = 0
    """Optimizer steps made, skipped ones included: the key of the next batch."""
    skipped: int = 0
    skipped_in_a_row: int = 0
    samples_seen: int = 0
    best: dict[str, Any] | None = None
    """{"step", "score"} of the best validation so far."""
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last line of the log, so that the log of a resumed run is the same too."""


class State:
    """Weights, averages, optimizer and counters of one training."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        self.config = config
        self.task = task
        self.device = device
        self.optimizer = make_optimizer(task.module, config.optim)
        self.ema = Ema(task.module, config.optim.ema) if config.optim.ema > 0 else None
        self.counters = Counters()

    def using(self, which: str) -> Any:
        """Context with the "ema" or the "raw" weights in the module, in eval mode without gradients."""
        if which == "ema" and self.ema is None:
            raise ValueError("there are no averaged weights: optim.ema is 0")
        return judged(self.task.module, self.ema.weights if which == "ema" and self.ema else None)

    def save(self, folder: Path, score: float | None) -> Path:
        """Commit a checkpoint; `score` is that of a validation at this very step, or None."""
        parts = {"model": named_state(self.task.module), "optimizer": state_by_name(self.task.module, self.optimizer)}
        if self.ema is not None:
            parts["ema"] = self.ema.weights
        return checkpoint.save(
            folder,
            self.counters.step,
            parts,
            {
                **dataclasses.asdict(self.counters),
                "schema": 1,
                "partimento": partimento.__version__,
                "family": self.config.family,
                "config": self.config.model_dump(mode="json"),
                "config_hash": config_hash(self.config),
                "seed": self.config.train.seed,
                "identity": self.task.identity,
                "description": self.task.description,
                "score": score,
                "score_name": self.task.score,
                "ema_updates": self.ema.updates if self.ema is not None else 0,
                "environment": devices.describe(self.device),
            },
        )

    def load(self, path: Path) -> list[str]:
        """Become what the checkpoint at `path` holds; returns notes on what may make its bits go another way.

        Raises CKPT001, TRAIN001 (configuration), TRAIN002 (data), TRAIN003 (names or shapes).
        """
        found = checkpoint.load(path)
        check_config(found.state["config"], self.config)
        check_identity(found.state["identity"], self.task.identity, self.task.history)
        copy_into(named_state(self.task.module), found.parts["model"])
        load_state_by_name(self.task.module, self.optimizer, found.parts["optimizer"])
        if self.ema is not None:
            copy_into(self.ema.weights, found.parts["ema"])
            self.ema.updates = found.state["ema_updates"]
        self.counters = Counters(**{f.name: found.state[f.name] for f in dataclasses.fields(Counters)})
        here, there = devices.describe(self.device), found.state["environment"]
        return [
            f"{name} is {here[name]} now and was {there.get(name)} before: the weights continue, but not bit for bit"
            for name in here
            if here[name] != there.get(name)
        ]


def check_config(stored: dict[str, Any], config: Config) -> None:
    """Raises TRAIN001 if `config` would not continue the run of the `stored` configuration."""
    before, now = (_flat(c.model_dump(mode="json")) for c in (parse(stored, name="the run's configuration"), config))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and not name.startswith(FREE):
            raise PartimentoError(
                "TRAIN001",
                f"{name} is {now.get(name)!r} and the run was started with {before.get(name)!r}",
                why="a run is one configuration; only how often it logs, validates, saves and plays may change",
                next=f"set {name} back, or start a new run (leave --run away)",
                key=name,
            )


def check_identity(
    stored: Mapping[str, Any], identity: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Raises TRAIN002 if the data is not what the run was trained on. `history` of the data (`Pack.history`) lets the
    error say what was done to it since."""
    for name in sorted(stored.keys() | identity.keys()):
        if stored.get(name) != identity.get(name):
            raise PartimentoError(
                "TRAIN002",
                f"the data changed under the run: its {name} is another one",
                why=f"{name} is {identity.get(name)} now and was {stored.get(name)}{_since(stored.get(name), history)}",
                next="point data at what the run was started with, or start a new run (leave --run away)",
                key=name,
            )


def _since(was: Any, history: Sequence[Mapping[str, Any]]) -> str:
    """What was done to the data since it was what it was."""
    known = [number for number, entry in enumerate(history) if entry["was"] == was]
    later = history[known[-1] :] if known else ()
    done = [f"{entry['what']} ({entry['why']})" for entry in later if entry["fingerprint"] != entry["was"]]
    return "; since then: " + ", ".join(done) if done else ""


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat

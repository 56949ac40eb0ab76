"""Everything that a training is between two steps, and how it goes into a checkpoint and comes out again.

A resumed run continues bit for bit (same device, precision and number of threads), because whatever is drawn is a
function of the step, and all else is here: weights, averaged weights, moments, what the guard remembers, and the
counters below. Rooms of the checkpoint: model, ema, optimizer, guard.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import partimento
from partimento.config import Config, config_hash, parse
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.runs import checkpoint
from partimento.training import audit, compiled, devices, flow_errors, graphs, groups, sharded
from partimento.training.adagc import AdaGC
from partimento.training.ema import Ema, copy_into, judged, named_state
from partimento.training.guards import Guard
from partimento.training.meter import Meter
from partimento.training.opponent import Opponent
from partimento.training.optim import Optimizers
from partimento.training.parallel import Parallel
from partimento.training.stages import stages
from partimento.training.task import Task, Using

# What a resumed run may change: how often it looks and saves, where and how it computes, what it plays. All else
# changes the weights or makes scores incomparable. `data.pack`, `data.folders`, `model.weights`, `model.backbone` and
# `model.experts_from` may move: their contents count.
FREE = (
    "data.pack",
    "data.folders",
    "model.weights",
    "model.backbone",
    "model.experts_from",
    "guard.stop_",
    "train.log_every",
    "train.valid_every",
    "train.save_every",
    "train.keep",
    "train.archive_every",
    "train.keep_archives",
    "train.save_sharded",
    "train.max_minutes",
    "train.trackers",
    "train.device",
    "train.parallel",
    "train.compile",
    "train.cuda_graphs",
    "train.recompute",
    "train.deterministic",
    "demo.",
)


# What the part guard holds: all that is remembered and is neither a weight nor a moment.
ROOMS = ("guard", "meter", "task", "adagc", "adversary_guard", "adversary_meter")


@dataclass
class Counters:
    """Plain numbers that are saved with the weights."""

    step: int = 0
    """Optimizer steps made, skipped ones included: the key of the next batch."""
    skipped: int = 0
    samples_seen: int = 0
    best: dict[str, Any] | None = None
    """{"step", "score"} of the best validation so far."""
    losses: list[float | None] = field(default_factory=list)
    """The last training losses that were logged, without what an adversary thinks, for the rule of divergence."""
    trained: dict[str, float] = field(default_factory=dict)
    """{"loss", "tokens"}: sums of what was logged since the last validation, the loss as in `losses`."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """{"step", "score", "train_loss"} of the validations, for the rules of stopping."""
    alarms: dict[str, Any] = field(default_factory=dict)
    """What `alarms.Alarms` remembers of the readings."""
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    """{"step", "to", "reason"} of the rollbacks so far; their number is the attempt that keys the data."""


class State:
    """Weights, averages, optimizer, guard and counters of one training."""

    def __init__(self, config: Config, task: Task, parallel: Parallel) -> None:
        self.config, self.task, self.parallel, self.device = config, task, parallel, parallel.device
        self.optim = config.optim
        self.sharded = parallel.world > 1 and config.train.parallel == "fsdp"
        # A copy to play with: the pieces of a sharded module are on all ranks, and demos are played on one. It is on
        # the device only while it plays.
        self._whole = copy.deepcopy(task.module).cpu() if self.sharded and parallel.main else None
        if config.train.cuda_graphs:
            graphs.check(config.train, self.device, parallel.world, task.module)
        self.compiled = compiled.prepare(task.module, config.train, self.device)
        self.model = parallel.wrap(task.objective, task.module, config.train)
        self.optimizer = Optimizers(task.module, config.optim)
        if not self.optimizer.claims:
            raise flow_errors.nothing()
        self.parameters = [weight for weight in task.module.parameters() if weight.requires_grad]
        named = {name: weight for name, weight in task.module.named_parameters() if weight.requires_grad}
        self.adagc = AdaGC(named, config.optim) if config.optim.adagc else None
        self.ema = Ema(task.module, config.optim.ema) if config.optim.ema > 0 else None
        self.guard = Guard(config.guard, self.device)
        self.meter = Meter()
        # Whether the log tells the noise of the gradient: of sharded weights no micro-batch's own one is anywhere.
        self.noise = not self.sharded and min(stage.accumulate for stage in stages(config)) > 1
        self.opponent = Opponent(task.rival, config, parallel) if task.rival is not None else None
        self._graphs: dict[tuple[torch.Size | None, ...], graphs.Graphed] = {}  # by shapes: one a stage
        self.counters = Counters()

    def count(self) -> int:
        """Trainable parameters."""
        return sum(weight.numel() for weight in self.parameters)

    def tables(self) -> dict[str, Any]:
        """Who trains what: rows of `groups.table` for each player, and of `groups.modules` for what is trained."""
        found = {"optimizer": self.optimizer.table(), "modules": groups.modules(self.task.module)}
        return found if self.opponent is None else {**found, "adversary": self.opponent.optimizer.table()}

    def dropout_key(self, step: int, micro: int) -> int:
        """Of the stream that dropout draws from in one micro-batch; every rank and every attempt has its own."""
        extra: list[int | str] = []
        if self.counters.rollbacks:
            extra += ["attempt", len(self.counters.rollbacks)]
        if self.parallel.rank:
            extra += ["rank", self.parallel.rank]
        return key(self.config.train.seed, "dropout", step, micro, *extra)

    def forward_backward(
        self, inputs: tuple[Tensor | None, ...], *, recorded: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and sums of one micro-batch; its gradients are added to those that are there. Without `recorded` it is
        computed call by call even where steps are recorded as CUDA graphs, for who looks at the calls."""
        if not recorded or not self.config.train.cuda_graphs:
            return self._forward_backward(inputs)
        shapes = tuple(None if tensor is None else tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            self._graphs[shapes] = graphs.Graphed(self._forward_backward, self.parameters)
        return self._graphs[shapes](inputs)

    def forget_graphs(self) -> None:
        """Let go of what was recorded, and of the memory that it holds."""
        self._graphs.clear()

    def _forward_backward(self, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        with devices.autocast(self.device, self.config.train.precision):
            total, sums = self.model(*inputs)
        total.backward()
        return total.detach(), {name: value.detach() for name, value in sums.items()}

    @property
    def rate_factor(self) -> float:
        """What the rollbacks have made of the rate."""
        return float(self.config.guard.rollback_lr ** len(self.counters.rollbacks))

    def using(self, which: str) -> contextlib.AbstractContextManager[nn.Module]:
        """The module with the "ema" or the "raw" weights in it, in eval mode without gradients."""
        if which == "ema" and self.ema is None:
            raise ValueError("there are no averaged weights: optim.ema is 0")
        weights = self.ema.weights if which == "ema" and self.ema else None
        return judged(self.task.module, weights, self.task.objective)

    def save(
        self, score: float | None, figures: Mapping[str, Any], good: bool
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The tensors and the JSON of a checkpoint; `score` and `figures` are those of a validation at this very step,
        `good` says that a rollback may return here.

        Tensors are the live ones: whoever writes them copies them first, or before the next step.
        """
        parts = {"model": named_state(self.task.module), "optimizer": self.optimizer.state(), "guard": self._memory()}
        if self.ema is not None:
            parts["ema"] = self.ema.weights
        if self.opponent is not None:
            parts |= self.opponent.parts()
        return parts, {
            **dataclasses.asdict(self.counters),
            "partimento": partimento.__version__,
            "family": self.config.family,
            "config": self.config.model_dump(mode="json"),
            "config_hash": config_hash(self.config),
            "seed": self.config.train.seed,
            "identity": self.task.identity,
            "description": self.task.description,
            "score": score,
            "score_name": self.config.train.metric or self.task.score,
            "figures": dict(figures),
            "good": good,
            "ema_updates": int(self.ema.updates) if self.ema is not None else 0,
            "environment": self.environment(),
        }

    def _memory(self) -> dict[str, Tensor]:
        rooms = {"guard": self.guard.state(), "meter": self.meter.state(), "task": self.task.memory()}
        if self.adagc is not None:
            rooms["adagc"] = self.adagc.state()
        if self.opponent is not None:
            rooms |= self.opponent.memory()
        return {f"{room}/{name}": tensor for room, named in rooms.items() for name, tensor in named.items()}

    def load(self, path: Path) -> list[str]:
        """Become what the checkpoint at `path` holds; returns notes on what may make its bits go another way.

        Every rank reads the whole checkpoint and keeps its share, so it may have been written by any number of ranks;
        of one that was saved in shares, sharded weights read only what they need.
        Raises CKPT001, TRAIN001 (configuration), TRAIN002 (data), TRAIN003 (names or shapes).
        """
        in_shares = self.sharded and (path / "model").is_dir()
        found = checkpoint.load(path, ("guard",) if in_shares else None)
        check_config(found.state["config"], self.config)
        check_identity(found.state["identity"], self.task.identity, self.task.history)
        if in_shares:
            averages = {"ema": self.ema.weights} if self.ema is not None else {}
            weights = {"model": named_state(self.task.module), "optimizer": self.optimizer.state(), **averages}
            sharded.load(path, weights)
        else:
            copy_into(named_state(self.task.module), found.parts["model"])
            self.optimizer.load(found.parts["optimizer"])
            if self.ema is not None:
                copy_into(self.ema.weights, found.parts["ema"])
        if self.ema is not None:
            self.ema.updates.fill_(found.state["ema_updates"])
        memory = {room: self._room(found.parts["guard"], room) for room in ROOMS}
        if found.parts["guard"]:  # else it is from before there was a guard, which begins anew
            self.guard.load(memory["guard"])
            self.meter.load(memory["meter"], self.device)
            self.task.remember(memory["task"])
            if self.adagc is not None:
                self.adagc.load(memory["adagc"])
        if self.opponent is not None:
            self.opponent.load(found.parts, memory)
        self.counters = Counters(**{f.name: found.state[f.name] for f in dataclasses.fields(Counters)})
        here, there = self.environment(), found.state["environment"]
        return [
            f"{name} is {here[name]} now and was {there.get(name)} before: the weights continue, but not bit for bit"
            for name in here
            if here[name] != there.get(name)
        ]

    @staticmethod
    def _room(named: Mapping[str, Tensor], room: str) -> dict[str, Tensor]:
        return {name[len(room) + 1 :]: tensor for name, tensor in named.items() if name.startswith(f"{room}/")}

    def audit(self) -> dict[str, int]:
        """How many tensors are kept in which type. Raises TRAIN045 where one is not float32 that must be."""
        averages = self.ema.weights if self.ema is not None else {}
        rows = audit.kept(self.task.module, self.optimizer.state(), averages)
        if self.opponent is not None:
            rows += audit.kept(self.opponent.module, self.opponent.optimizer.state(), {})
        return audit.check(rows)

    def environment(self) -> dict[str, Any]:
        """What the bits of a run depend on besides its keys."""
        train = self.config.train
        return {
            **devices.describe(self.device),
            "world": self.parallel.world,
            "parallel": train.parallel if self.parallel.world > 1 else None,
            "compiled": self.compiled,
            "cuda_graphs": train.cuda_graphs,
        }

    def playing(self) -> Using | None:
        """`using` for the demos, or None where nothing is played: one rank plays, but every rank must call this,
        because the pieces of sharded weights are gathered here."""
        if not self.sharded:
            return self.using if self.parallel.main else None
        rooms = {"raw": self.parallel.gather(named_state(self.task.module))}
        if self.ema is not None:
            rooms["ema"] = self.parallel.gather(self.ema.weights)
        whole = self._whole
        if whole is None:
            return None

        @contextlib.contextmanager
        def using(which: str) -> Iterator[nn.Module]:
            copy_into(named_state(whole), rooms[which] or {})
            try:
                with torch.no_grad():
                    yield whole.to(self.device).eval()
            finally:
                whole.cpu()

        return using


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


_LATER = ("backbone", "tokenizer")
_UPON = {
    "weights": ("the weights that the run was built upon are others now", "the [model] section"),
    "backbone": ("the backbone's config.json describes another model than the run was built upon", "model.backbone"),
    "tokenizer": ("the backbone has another tokenizer than the run was built upon", "model.backbone"),
    "experts": ("the model that the experts came from is another one now", "model.experts_from"),
    "start": ("model.weights holds others than the run began with", "model.weights"),
}
"""What changed, and which setting says where it is; everything else is data."""


def check_identity(
    stored: Mapping[str, Any], identity: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Raises TRAIN002 if the data is not what the run was trained on. `history` of the data (`Pack.history`) lets the
    error say what was done to it since."""
    for name in sorted(stored.keys() | identity.keys()):
        if stored.get(name) != identity.get(name):
            if name in _LATER and name not in stored:
                continue  # begun before it was kept
            changed, place = _UPON.get(name, (f"the data changed under the run: its {name} is another one", "data"))
            raise PartimentoError(
                "TRAIN002",
                changed,
                why=f"{name} is {identity.get(name)} now and was {stored.get(name)}{_since(stored.get(name), history)}",
                next=f"point {place} at what the run was started with, or start a new run (leave --run away)",
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

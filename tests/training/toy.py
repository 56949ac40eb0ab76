"""A task that needs no files: a small network with dropout, a tied weight and a buffer learns a random map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from partimento import commit
from partimento.config import Config, parse
from partimento.keyed import torch_generator
from partimento.runs.checkpoint import step_name
from partimento.training import speed
from partimento.training.stages import settings_at
from partimento.training.task import Rival, Sums, Total, Using, alone

WIDTH, OUTPUTS = 16, 7


class ToyModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(OUTPUTS, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, OUTPUTS, bias=False)
        self.head.weight = self.embedding.weight  # tied
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.dropout = 0.1

    steps: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        x = functional.dropout(self.embedding(ids), self.dropout, self.training)
        return self.head(self.norm(x + torch.tanh(self.layer(x))))


class ToyObjective(nn.Module):
    def __init__(self, module: ToyModule) -> None:
        super().__init__()
        self.toy = module

    def forward(self, ids: Tensor, targets: Tensor, spoilt: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.toy(ids).float()
        total = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
        tokens = (targets >= 0).sum().float()
        return total * spoilt, {"tokens": tokens, "places": torch.ones_like(tokens) * targets.numel()}


class ToyTask:
    """Items of one step are keyed by their place in the optimizer step, so batch and accumulate can be traded."""

    score = "loss"
    rival: Rival | None = None
    attentions = 0
    directions = ()

    def __init__(
        self,
        config: Config,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        *,
        fingerprint: str = "toy",
        dropout: float = 0.1,
    ) -> None:
        self.config, self.device, self.rank, self.world = config, device, rank, world
        self.module = ToyModule()
        self.module.dropout = dropout
        self.objective = ToyObjective(self.module)
        self.identity = {"fingerprint": fingerprint}
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.description: dict[str, Any] = {"outputs": OUTPUTS}
        self.spoil: dict[int, float] = {}
        self.started = 0
        self.evaluations = 0

    def start(self) -> None:
        self.started += 1

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch_generator(self.config.train.seed, "item", index)
        ids = torch.randint(0, OUTPUTS, (12,), generator=generator)
        targets = (ids * 3 + 1) % OUTPUTS
        valid = torch.rand(12, generator=generator) < (0.2 + 0.6 * (index % 3) / 2)
        valid[0] = True
        return ids, torch.where(valid, targets, -1)

    def batch(self, step: int, micro: int, attempt: int = 0) -> tuple[int, Tensor, Tensor]:
        stage = settings_at(self.config, step)
        share = stage.batch // self.world
        place = step + attempt * self.config.train.steps
        first = (place * stage.accumulate + micro) * stage.batch + self.rank * share
        ids, targets = zip(*(self.item(first + place) for place in range(share)), strict=True)
        return step, torch.stack(ids), torch.stack(targets)

    def inputs(self, batch: tuple[int, Tensor, Tensor]) -> tuple[Tensor, ...]:
        step, ids, targets = batch
        return ids.to(self.device), targets.to(self.device), torch.tensor(self.spoil.get(step, 1.0))

    def count(self, batch: tuple[int, Tensor, Tensor]) -> float:
        return int((batch[2] >= 0).sum())

    def flops(self, window: int) -> float:
        return speed.flops_per_item(self.module, window)

    def frames(self, window: int) -> float:
        return window

    def figures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return {"share": sums["tokens"] / sums["places"]}

    def after_step(self, step: int, bad: Tensor, sums: Sums, total: Total = alone) -> None:
        self.module.steps += ~bad

    def unreached(self) -> dict[str, str]:
        return {}

    def memory(self) -> dict[str, Tensor]:
        return {}

    def remember(self, tensors: Mapping[str, Tensor]) -> None:
        assert not tensors

    def evaluate(self, total: Total = alone) -> dict[str, Any]:
        assert not self.module.training and not torch.is_grad_enabled()
        self.evaluations += 1
        torch.rand(3)  # an evaluation that draws must not disturb the training
        ids, targets = self.item(10**6)
        loss = functional.cross_entropy(self.module(ids.to(self.device)), targets.to(self.device), ignore_index=-1)
        return {"loss": float(loss)}

    def baselines(self) -> dict[str, Any]:
        return {"uniform": 1.9459}

    def demos(self, root: Path, step: int, using: Using) -> Path | None:
        if not self.config.demo.temperatures:
            return None
        path = root / step_name(step)
        with using("raw"), commit.folder(path) as folder:
            commit.record(folder / "demos.json", {"demos": [], "rand": float(torch.rand(()))})
        return path


def toy_config(**overrides: Any) -> Config:
    """Sixteen steps of batch 4 unless overridden by section__key=value."""
    values: dict[str, Any] = {
        "optim__batch": 4, "optim__warmup": 3, "optim__lr": 0.02, "optim__ema": 0.9,
        "train__steps": 16, "train__log_every": 2, "train__valid_every": 100, "train__save_every": 4,
        "train__device": "cpu", "demo__temperatures": [],
    } | overrides  # fmt: skip
    tree: dict[str, Any] = {"family": "rvq", "data": {"pack": "none"}}
    for name, value in values.items():
        section, key = name.split("__")
        tree.setdefault(section, {})[key] = value
    return parse(tree)

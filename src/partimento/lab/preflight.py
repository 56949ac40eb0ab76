"""Checks before a long run: each has a name, says what it measured, and names its remedy where it fails.

`preflight` runs the cheap ones (seconds); `overfit` (minutes) is the strongest: see `overfit.py`. A new check is one
function in CHECKS.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from partimento import commit
from partimento.config import Config
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.lab.overfit import OverfitResult, overfit
from partimento.progress import Progress, Quiet
from partimento.training import devices
from partimento.training.task import Task
from partimento.training.tasks import make_task

__all__ = ["CHECKS", "Check", "OverfitResult", "overfit", "preflight"]

LOSS_TOLERANCE = 0.05  # share of ln V by which the loss of random weights may be off
GRADIENT_BATCHES = 8
SPARE_DISK = 200_000_000  # bytes beside the checkpoints: demos, events, report


@dataclass(frozen=True)
class Check:
    """`passed` None: does not apply to this family, or could not be tried because an earlier check failed."""

    name: str
    passed: bool | None
    found: str
    remedy: str | None = None
    code: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """What the checks share: the configuration, and the task once it is made."""

    def __init__(self, config: Config, runs: Path) -> None:
        self.config, self.runs = config, runs

    @cached_property
    def task(self) -> Task:
        device = devices.pick(self.config.train.device)
        torch.manual_seed(key(self.config.train.seed, "weights"))
        task = make_task(self.config, device)
        task.module.to(device).train()
        task.start()
        return task


def preflight(config: Config, *, runs: str | Path = "runs", progress: Progress | None = None) -> list[Check]:
    """Run every cheap check and return them all, failed or not; what a check itself raises becomes its failure."""
    progress = progress or Quiet()
    bench = Bench(config, Path(runs))
    done: list[Check] = []
    with devices.reproducible(devices.pick(config.train.device)):
        for number, (name, check) in enumerate(CHECKS.items()):
            progress.stage(name, (check.__doc__ or "").split("\n")[0])
            if name in NEED_TASK and "task" not in bench.__dict__:
                done.append(Check(name, None, "not tried: the data could not be opened"))
                continue
            try:
                done.append(check(bench))
            except PartimentoError as err:
                why = f" ({err.why})" if err.why else ""
                done.append(Check(name, False, f"{err.message}{why}", err.next, err.code))
            progress.update(number + 1, len(CHECKS))
    return done


def data_fits(bench: Bench) -> Check:
    """The data opens, both splits are there, and the window fits its longest clip."""
    task = bench.task
    identity = ", ".join(f"{name} {str(value)[:12]}" for name, value in task.identity.items())
    return Check("data", True, f"opened and drawn from; {identity}")


def disk_writable(bench: Bench) -> Check:
    """Runs can be written, and there is room for the checkpoints that will be kept."""
    with commit.disk_errors(bench.runs):
        bench.runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="preflight", suffix=commit.TMP, dir=bench.runs) as folder:
            commit.data(Path(folder) / "probe", b"x" * 4096)
    free = shutil.disk_usage(bench.runs).free
    need = SPARE_DISK
    if "task" in bench.__dict__:
        weights = sum(p.numel() * p.element_size() for p in bench.task.module.parameters())
        # Weights, their average and AdamW's two moments; the best and one being written beside those that are kept.
        need += 4 * weights * (bench.config.train.keep + 2)
    found = f"{free / 1e9:.1f} GB free in {bench.runs}, about {need / 1e9:.2f} GB needed"
    remedy = "free some space, choose another --runs folder, or set train.keep=2"
    return Check("disk", free > need, found, None if free > need else remedy)


def initial_loss(bench: Bench) -> Check:
    """Before the first step all codes should be about equally likely: the loss is ln V."""
    if bench.config.family != "rvq":
        return Check("initial loss", None, "there is no closed form for this family")
    task = bench.task
    batch = task.batch(0, 0)
    with torch.no_grad():
        loss = float(task.loss(batch)[0]) / task.count(batch)
    outputs = int(task.module.config.outputs)  # type: ignore[union-attr,arg-type]
    expected = math.log(outputs)
    good = abs(loss / expected - 1) <= LOSS_TOLERANCE
    remedy = "the initial weights are too large or too small: look at model.attention_scale, model.norm and the data"
    return Check(
        "initial loss", good, f"{loss:.3f} nats, ln {outputs} = {expected:.3f}", None if good else remedy
    )  # fmt: skip


def mask_is_causal(bench: Bench) -> Check:
    """What comes later in the grid must not change what is predicted earlier, not by one bit of its meaning."""
    if bench.config.family != "rvq":
        return Check("causality", None, "only a model that plays step by step must be causal")
    module = bench.task.module
    batch = bench.task.batch(0, 0)
    rows_BSK = batch.grid_BSK[:, :-1].to(next(module.parameters()).device).long()
    middle = rows_BSK.shape[1] // 2
    changed_BSK = rows_BSK.clone()
    changed_BSK[:, middle:] = (changed_BSK[:, middle:] + 1) % int(module.config.outputs)  # type: ignore[union-attr,arg-type]
    condition_BD = None
    if module.condition is not None:
        condition_BD = module.condition.null(len(rows_BSK))  # type: ignore[union-attr,operator]
    module.eval()
    with torch.no_grad():
        before, after = (module(rows, condition_BD=condition_BD)[:, :middle] for rows in (rows_BSK, changed_BSK))
    module.train()
    difference = float((before - after).abs().max())
    good = difference <= 1e-4 * float(before.abs().max())  # other shapes may round differently, a leak is far above it
    remedy = "the attention mask lets the future through: its loss is worth nothing; undo the change of the model"
    found = f"earlier logits differ by {difference:.2g} when later rows change"
    return Check("causality", good, found, None if good else remedy)


def gradients_reach(bench: Bench) -> Check:
    """Every trainable parameter gets a finite gradient that is not zero."""
    task = bench.task
    parameters = {name: weight for name, weight in task.module.named_parameters() if weight.requires_grad}
    waiting = set(parameters)
    for micro in range(GRADIENT_BATCHES):
        task.module.zero_grad(set_to_none=True)
        batch = task.batch(micro, 0)
        (task.loss(batch)[0] / task.count(batch)).backward()
        for name in sorted(waiting):
            gradient = parameters[name].grad
            if gradient is None:
                continue
            if not bool(torch.isfinite(gradient).all()):
                remedy = "look at the data for damage (partimento pack verify) and at train.precision"
                return Check("gradients", False, f"the gradient of {name} is not finite", remedy)
            if bool(gradient.any()):
                waiting.discard(name)
        if not waiting:
            break
    task.module.zero_grad(set_to_none=True)
    if not waiting:
        return Check("gradients", True, f"{len(parameters)} parameters, all reached")
    remedy = "a part of the model is not connected to the loss"
    if any("null" in name for name in waiting):
        remedy = "the null condition is never trained: set data.null_share above 0, or play without guidance"
    names = ", ".join(sorted(waiting)[:5]) + (f" and {len(waiting) - 5} more" if len(waiting) > 5 else "")
    return Check("gradients", False, f"no gradient in {GRADIENT_BATCHES} batches: {names}", remedy)


CHECKS: dict[str, Callable[[Bench], Check]] = {
    "data": data_fits,
    "disk": disk_writable,
    "initial loss": initial_loss,
    "causality": mask_is_causal,
    "gradients": gradients_reach,
}
NEED_TASK = {"initial loss", "causality", "gradients"}

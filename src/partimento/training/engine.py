"""The training loop: one for all families.

`train` opens the run and looks after its ends; `_loop` is the training itself, to be read from top to bottom. What is
around the steps (beginning, logging, judging, saving) is in `session`, what is saved in `state`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from partimento.config import Config
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.progress import Progress, Quiet
from partimento.runs.run import Run, resume_command
from partimento.training import devices
from partimento.training.optim import step_unless
from partimento.training.schedule import learning_rate
from partimento.training.session import Session
from partimento.training.state import check_config
from partimento.training.stop import Stop
from partimento.training.task import Task
from partimento.training.tasks import make_task as task_of_family

MakeTask = Callable[[Config, torch.device], Task]


def train(
    config: Config,
    *,
    runs: str | Path = "runs",
    run: str | None = None,
    name: str | None = None,
    hypothesis: str | None = None,
    progress: Progress | None = None,
    make_task: MakeTask = task_of_family,
) -> Run:
    """Train a new run, or go on with the run of id `run` if it exists below `runs`.

    Ends at `train.steps` or after `train.max_minutes`, saved either way. Raises SYS003 on Ctrl-C or SIGTERM (saved;
    `next` is the command that goes on), SYS002 (disk), TRAIN001 and TRAIN002 (a resume with another configuration or
    other data), TRAIN003 (checkpoint and model differ), TRAIN004 (no finite step any more), TRAIN005 (device), TRAIN006
    (a step without one valid token), RUN002, RUN003, RUN004, CKPT002, and what the data of the family raises.
    """
    progress = progress or Quiet()
    device = devices.pick(config.train.device)
    there = Path(runs) / run if run is not None else None
    found = Run.open(there) if there is not None and there.exists() else None
    if found is not None:
        check_config(found.record["config"], config)
    with devices.reproducible(device):
        progress.stage("prepare", "the data is opened and verified, the model is made")
        torch.manual_seed(key(config.train.seed, "weights"))
        task = make_task(config, device)
        task.module.to(device).train()
        if found is None:
            count = sum(weight.numel() for weight in task.module.parameters() if weight.requires_grad)
            extra = {"identity": task.identity, "environment": devices.describe(device), "parameters": count}
            found = Run.create(runs, config, name=name, run_id=run, hypothesis=hypothesis, extra=extra)
        with found.hold(), Stop() as stop:
            session = Session(found, config, task, device, progress)
            try:
                session.begin(stop)
                reason = _loop(session, stop)
            except KeyboardInterrupt:  # in work that may be dropped (Stop.at_once), or by a second Ctrl-C
                reason = "interrupted"
            except PartimentoError as err:
                session.give_up(err)
                raise
            session.events.append("end", session.step, reason=reason)
    if reason == "interrupted":
        raise PartimentoError(
            "SYS003",
            f"stopped by {stop.requested}; the run {found.id} is saved up to step {session.saved}",
            where=str(found.path),
            next=resume_command(found.path),
        )
    return found


def _loop(session: Session, stop: Stop) -> str:
    """Draw, forward and backward, clip, step, average, log, validate, save, play. Returns why it ended."""
    config, task, state, counters = session.config, session.task, session.state, session.state.counters
    parameters = [weight for weight in task.module.parameters() if weight.requires_grad]
    optim, plan = config.optim, config.train

    while counters.step < plan.steps:
        began = time.perf_counter()
        step = counters.step
        batches = [task.batch(step, micro) for micro in range(optim.accumulate)]
        tokens = _tokens(task, batches, step)

        state.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        facts: list[Mapping[str, Tensor | float]] = []
        for micro, batch in enumerate(batches):
            torch.manual_seed(key(plan.seed, "dropout", step, micro))
            with devices.autocast(session.device, plan.precision):
                total, seen = task.loss(batch)
            # Divided by the tokens of the whole step, so that accumulation is exact however the tokens are spread.
            (total / tokens).backward()
            losses.append(total.detach() / tokens)
            facts.append(seen)

        norm = clip_grad_norm_(parameters, optim.clip)
        loss = torch.stack(losses).sum()
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        rate = learning_rate(
            step, peak=optim.lr, minimum=optim.lr * optim.min_lr, warmup=optim.warmup, steps=plan.steps
        )
        step_unless(bad, state.optimizer, rate)
        skipped = bool(bad)
        if not skipped:
            task.after_step(step)
            if state.ema is not None:
                state.ema.update()
        counters.step += 1
        counters.samples_seen += optim.batch * optim.accumulate

        session.record_step(float(loss), float(norm), tokens, facts, skipped, time.perf_counter() - began)
        if counters.step % plan.log_every == 0 or counters.step == plan.steps:
            session.log(rate)
        ending = session.ending(stop)
        last = ending in ("finished", "max_minutes")
        if counters.step % plan.valid_every == 0 or last:
            session.validate()
        playing = last or (session.demo_due() and not ending)
        if counters.step % plan.save_every == 0 or session.improved or ending or playing:
            session.save()
        if playing:
            session.demo(stop)
        if ending:
            return ending
    return "finished"


def _tokens(task: Task, batches: list[Any], step: int) -> float:
    tokens = float(sum(task.count(batch) for batch in batches))
    if tokens == 0:
        raise PartimentoError(
            "TRAIN006",
            f"step {step} drew nothing that can be learned",
            why="every token of its items is padding",
            next="partimento pack verify PACK",
        )
    return tokens

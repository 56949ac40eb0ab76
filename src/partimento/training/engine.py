"""The training loop: one for all families, for one device and many.

`train` opens the run and looks after its ends. `train_step` is a step of all players, `_loop` the training itself: both
are to be read from top to bottom. What is around the steps is in `session` (with `readings`, `judging` and
`keeper`), what is saved in `state`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from partimento.config import Config
from partimento.errors import PartimentoError
from partimento.keyed import key
from partimento.progress import Progress, Quiet
from partimento.runs import trackers
from partimento.runs.hypotheses import addition
from partimento.runs.run import Run, resume_command
from partimento.training import devices
from partimento.training.feed import Feed
from partimento.training.meter import BIG, SMALL
from partimento.training.opponent import Opponent
from partimento.training.optim import clip_global_, total_norm
from partimento.training.parallel import Parallel
from partimento.training.schedule import shape
from partimento.training.session import Session
from partimento.training.stages import settings_at
from partimento.training.state import State, check_config
from partimento.training.stop import Stop
from partimento.training.task import Task
from partimento.training.tasks import make_task as task_of_family

MakeTask = Callable[..., Task]  # (config, device, rank, world)
LAST = ("finished", "max_minutes", "stopped early")  # endings that are judged and played, unlike "interrupted"


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

    Under torchrun or Slurm every process calls this, and the run is one. Ends at `train.steps`, after
    `train.max_minutes`, or where `guard` says so, saved in each case.

    Raises SYS003 on Ctrl-C or SIGTERM (saved; `next` is the command that goes on), SYS002 (disk), TRAIN001 and TRAIN002
    (a resume with another configuration or other data), TRAIN003 (checkpoint and model differ), TRAIN004 (gone wrong
    for good), TRAIN005 (device), TRAIN006 (a step without one valid token), RUN002, RUN003, RUN004, CKPT002, and what
    the data of the family raises, RUN010 (a tracker is not installed).

    A `hypothesis` that is given on a resume is added to the log of the run, beside that of its record.
    """
    trackers.require(config.train.trackers)
    with (
        Parallel.join(config) as parallel,
        devices.reproducible(parallel.device, config.train.deterministic),
        devices.precise(parallel.device, config.train.precision),
    ):
        return _train(config, parallel, Path(runs), run, name, hypothesis, progress or Quiet(), make_task)


def _train(
    config: Config,
    parallel: Parallel,
    runs: Path,
    run: str | None,
    name: str | None,
    hypothesis: str | None,
    progress: Progress,
    make_task: MakeTask,
) -> Run:
    if not parallel.main:
        progress = Quiet()
    found = Run.open(runs / run) if run is not None and (runs / run).exists() else None
    if found is not None:
        check_config(found.record["config"], config)
    progress.stage("prepare", "the data is opened and verified, the model is made")
    devices.seed(parallel.device, key(config.train.seed, "weights"))
    task = make_task(config, parallel.device, parallel.rank, parallel.world)
    for player in (task, task.rival) if task.rival is not None else (task,):
        player.objective.to(parallel.device).train()
    state = State(config, task, parallel)
    if parallel.main and found is None:
        extra = {"identity": task.identity, "environment": state.environment(), "parameters": state.count()}
        found = Run.create(runs, config, name=name, run_id=run, hypothesis=hypothesis, extra=extra)
    found = Run.open(parallel.share(str(found.path) if found else None))
    holding = found.hold() if parallel.main else contextlib.nullcontext()
    with holding, Stop() as stop, Session(found, state, progress) as session:
        try:
            session.begin(stop)
            if added := addition(found, hypothesis):
                session.journal.event("hypothesis", text=added)
            reason = _loop(session, stop)
        except KeyboardInterrupt:  # in work that may be dropped (Stop.at_once), or by a second Ctrl-C
            reason = "interrupted"
        except PartimentoError as err:
            session.give_up(err)
            raise
        session.end(reason)
    if reason == "interrupted":
        raise PartimentoError(
            "SYS003",
            f"stopped by {stop.requested}; the run {found.id} is saved up to step {session.keeper.saved}",
            where=str(found.path),
            next=resume_command(found.path),
        )
    return found


def train_step(state: State, batches: Sequence[Any], step: int, rate: float) -> None:
    """The optimizer step of each player: of the adversary, where there is one, then of the module that is trained.

    Nothing of it is read on the host.
    """
    if state.opponent is not None and state.opponent.rival.plays(step):
        optimizer_step(state, state.opponent, batches, step, rate * state.opponent.rival.ramp(step))
    bad, sums = optimizer_step(state, state, batches, step, rate)
    state.task.after_step(step, bad, sums, state.parallel.sum_)
    if state.ema is not None:
        state.ema.update(bad)


def optimizer_step(
    state: State, player: State | Opponent, batches: Sequence[Any], step: int, rate: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of one player: forward, backward, reduce, clip, guard, step. Returns whether it was skipped, and sums.

    Losses and gradients are sums, over valid tokens, micro-batches and devices; they are divided once, by the tokens of
    the whole step. So it is the same step however its items are spread.
    """
    config, task, parallel = state.config, state.task, state.parallel
    player.optimizer.zero_grad(set_to_none=not config.train.cuda_graphs)
    sums: dict[str, Tensor] = {}
    for micro, batch in enumerate(batches):
        inputs = task.inputs(batch)
        devices.seed(state.device, state.dropout_key(step, micro))
        with parallel.accumulating(player.model, last=micro == len(batches) - 1):
            total, seen = player.forward_backward(inputs)
        if micro == 0 and player is state and state.noise:
            seen = {**seen, SMALL: micro_square(player, seen["tokens"])}
        for name, value in {"loss": total, **seen}.items():
            sums[name] = sums[name] + value if name in sums else value
    sums = _over_ranks(parallel, sums)
    loss, tokens, small = sums.pop("loss"), sums["tokens"], sums.pop(SMALL, None)

    scale = parallel.gradient_factor / tokens
    gradients = [weight.grad for weight in player.parameters if weight.grad is not None]
    norm = total_norm(gradients) * scale
    bad = player.guard.judge(loss / tokens, norm)
    if player.adagc is not None:
        player.adagc.clip_(scale, norm, bad)
    else:
        clip_global_(gradients, scale, norm, player.optim.clip)
    player.optimizer.step(bad, rate)
    squares = {} if small is None else {SMALL: small / parallel.world, BIG: norm.square()}
    player.meter.add(loss, norm, {**sums, **squares}, bad)
    return bad, sums


def micro_square(player: State | Opponent, tokens: Tensor) -> Tensor:
    """The squared norm of the mean gradient of one micro-batch on this device, the only one made so far. Beside that of
    the whole step it tells how much of a gradient is noise (McCandlish et al. 2018, appendix A)."""
    gradients = [weight.grad for weight in player.parameters if weight.grad is not None]
    return (total_norm(gradients) / tokens.clamp(min=1)).square()


def _loop(session: Session, stop: Stop) -> str:
    """Draw, step, log, validate, save, play. Returns why it ended."""
    config, state, counters = session.config, session.state, session.state.counters
    plan = config.train
    feed = Feed(session.draw, plan.steps)
    if reason := session.judging.early():  # it had stopped by itself, and is asked again
        session.demo(stop)  # a kill before its demos left them out
        return reason
    with session.feeding(feed):
        while counters.step < plan.steps:
            step = counters.step
            stage = settings_at(config, step)
            if step > 0 and step in (stage.start, state.opponent and state.opponent.rival.start):
                session.new_stage()
            rate = shape(step, config.optim, plan.steps) * stage.lr * state.rate_factor
            session.pace.begin()
            batches = feed.next(step, len(counters.rollbacks))
            train_step(state, batches, step, rate)
            counters.step += 1
            counters.samples_seen += stage.batch * stage.accumulate
            session.tick()

            reading = counters.step % plan.log_every == 0 or counters.step == plan.steps
            if reading:
                session.readings.log(rate)
                if wrong := session.readings.gone_wrong():
                    with session.pace.aside():
                        session.roll_back(wrong)
                    counters = state.counters
                    continue
                with session.pace.aside():
                    session.audit_flow(rate)
            with session.pace.aside():
                ending = session.ending(stop, reading)
                if counters.step % plan.valid_every == 0 or ending in LAST:
                    session.judging.validate()
                    ending = ending or session.judging.early()
                playing = ending in LAST or (session.demo_due() and not ending)
                if session.save_due() or session.judging.improved or ending or playing:
                    session.save()
                if playing:
                    session.demo(stop, goes_on=not ending)
            if ending:
                return ending
    return "finished"


def _over_ranks(parallel: Parallel, sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """All sums over all devices, in one collective."""
    if parallel.world == 1:
        return sums
    flat = parallel.sum_(torch.cat([value.reshape(-1) for value in sums.values()]))
    parts = flat.split([value.numel() for value in sums.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(sums.items(), parts, strict=True)}

"""What happens around the steps of a training: beginning or going on, logging, judging, saving, going back, playing.

With several ranks all of them come here and decide alike, from values that are equal on all; the main one writes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress
from partimento.runs import checkpoint, demos
from partimento.runs.events import EventLog, read_events
from partimento.runs.run import Run, resume_command
from partimento.training import devices, halting
from partimento.training.alarms import Alarms
from partimento.training.feed import Feed
from partimento.training.flow import Flow, line
from partimento.training.guards import Guard
from partimento.training.keeper import Keeper
from partimento.training.pace import Pace
from partimento.training.rehearsal import audit, rehearse
from partimento.training.stages import settings_at
from partimento.training.state import State, check_identity
from partimento.training.stop import Stop

HISTORY = 64  # validations that are remembered


class Session:
    """One call of `train` on one run. `improved`: the last validation was the best so far, and is not yet saved."""

    def __init__(self, run: Run, state: State, progress: Progress) -> None:
        self.run, self.state, self.progress = run, state, progress
        self.config, self.task, self.parallel, self.device = state.config, state.task, state.parallel, state.device
        self.main = self.parallel.main
        self.events = EventLog(run.events_path) if self.main else None
        self.keeper = Keeper(run, state, self._append)
        self.improved = False
        self.pace = Pace(state)
        self._validated: tuple[int, float | None, dict[str, Any]] = (-1, None, {})  # step, score, figures
        self._figures: list[float] = []  # of the guard, at the last reading
        self._opponents: list[float] = []  # of the second player's guard
        self._alarms = Alarms.of(state.config)
        self._save_asked = False  # by SIGUSR1
        self._flow: Flow | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.keeper.settle(wait=True)
        except PartimentoError:
            if kind is None:
                raise  # else the first error is the one to tell

    @property
    def step(self) -> int:
        return self.state.counters.step

    def event(self, kind: str, **values: Any) -> None:
        self._append(kind, self.step, **values)

    def _append(self, kind: str, step: int, **values: Any) -> None:
        if self.events is not None:
            self.events.append(kind, step, **values)

    def note(self, text: str) -> None:
        self.event("note", text=text)
        self.progress.note(text)

    # Beginning

    def begin(self, stop: Stop) -> None:
        """Load the newest whole checkpoint, or start from nothing if the run has none."""
        check_identity(self.run.record.get("identity", {}), self.task.identity, self.task.history)
        if self.main:
            for place in (self.run.checkpoints_path, self.run.demos_path):
                place.mkdir(exist_ok=True)
                commit.sweep(place)
        found = self.keeper.newest(self.note)
        if found is None:
            self.event("start", **self.state.environment(), **self.state.tables())
            for text in self.task.notes:
                self.note(text)
            with stop.at_once():
                self.task.start()
                if self.config.train.metric is not None:
                    self._scored(self._evaluated("raw"))  # a name that no validation has is told before step 1
        else:
            self._go_on(found)
        self.event("audit", **audit(self.state))
        if self.main and not any(event["kind"] == "baseline" for event in read_events(self.run.events_path)):
            with stop.at_once():
                if figures := self.task.baselines():
                    self.event("baseline", **figures)
        self.parallel.barrier()  # the hosts wait longer for each other than the devices would
        if self.step and (self.step == self.config.train.steps or self.demo_due()):
            self.demo(stop)  # a kill between the checkpoint and its demos left them out
        if self.step < self.config.train.steps:
            with stop.at_once():
                rehearse(self.state)
                self._begin_flow(new=found is None)
            self.progress.stage("train", self._plan())

    def _go_on(self, path: Path) -> None:
        notes = self.keeper.load(path, "damaged")  # newer ones did not verify
        self._alarms.load(self.state.counters.alarms)
        self.event("resume", checkpoint=path.name, **self.state.environment())
        for text in notes:
            self.note(text)

    def _plan(self) -> str:
        begin = f"on from step {self.step} " if self.step else ""
        return f"{begin}to step {self.config.train.steps}; Ctrl-C saves and says how to go on"

    def _begin_flow(self, new: bool) -> None:
        """Who is to learn, before the first step; on a resume only what the audit has not told yet."""
        past = [event for event in read_events(self.run.events_path) if event["kind"] == "flow"] if self.main else []
        told = self.parallel.share([{"when": event["when"], "prints": event.get("prints")} for event in past])
        self._flow = Flow(self.state)
        if new:
            self.event("flow", **self._flow.before())
            return
        self._flow.again(next((event["prints"] for event in told if event["prints"]), None))
        if any(event["when"] == "after" for event in told):
            self._flow = None

    # Steps

    def draw(self, step: int, attempt: int) -> Sequence[Any]:
        """The micro-batches of a step, in the thread of the feed."""
        batches = [self.task.batch(step, micro, attempt) for micro in range(settings_at(self.config, step).accumulate)]
        if self.parallel.world == 1 and not sum(self.task.count(batch) for batch in batches):
            raise PartimentoError(
                "TRAIN006",
                f"step {step} drew nothing that can be learned",
                why="every token of its items is padding",
                next="partimento pack verify PACK",
            )
        return batches

    @contextlib.contextmanager
    def feeding(self, feed: Feed) -> Iterator[None]:
        self.pace.feed = feed
        try:
            yield
        finally:
            feed.close()

    def tick(self) -> None:
        """A step is over, for the host; the device may still be at it."""
        self.pace.tick()
        self.keeper.settle()

    def log(self, rate: float) -> None:
        """The scheduled read: one line over the steps since the last one; skipped steps are counted apart."""
        counters = self.state.counters
        sums, self._figures = self.state.meter.read(self.state.guard.figures())
        guard = dict(zip(Guard.FIGURES, self._figures, strict=True))
        skipped = int(guard["skipped"])
        if skipped > counters.skipped:
            self.note(f"{skipped - counters.skipped} steps were skipped; {halting.last_skip(guard)}")
        counters.skipped = skipped
        steps = sums.get("steps", 0.0)
        loss = sums["loss"] / sums["tokens"] if steps else None
        # What an adversary thinks rises as that learns, and is no sign of a network that forgets.
        own = sums.get("loss", 0.0) - sums.get("opinions", 0.0)
        counters.losses = halting.remember(counters.losses, own / sums["tokens"] if steps else None)
        for name, value in (("loss", own), ("tokens", sums.get("tokens", 0.0))):
            counters.trained[name] = counters.trained.get(name, 0.0) + value
        figures = {
            "loss": loss,
            "tokens": sums.get("tokens", 0.0),
            "grad_norm": sums["norm"] / steps if steps else None,
            "lr": rate * self.config.optim.lr,
            "skipped": skipped,
            **self.pace.read(settings_at(self.config, self.step - 1)),
            **(self.task.figures(sums) if steps else {}),
            **self._of_opponent(),
        }
        self.event("train", **figures)
        for alarm in self._alarms.read(self.step, figures, rate):
            self.event("alarm", alarm=alarm.kind, text=alarm.text, remedy=alarm.remedy)
            self.progress.note(f"step {self.step}: {alarm.kind}: {alarm.text}; what helps: {alarm.remedy}")
        counters.alarms = self._alarms.state()
        self.progress.update(self.step, self.config.train.steps, loss=round(loss, 4) if loss is not None else "-")

    def audit_flow(self, rate: float) -> None:
        """Look once more at who learns, when each player has made its first steps; nothing before and after that."""
        if self._flow is None or not (due := self._flow.due()):
            return
        event, notes = self._flow.after(due, rate)
        self.event("flow", **event)
        for text in notes:
            self.note(text)
        if not notes:
            self.progress.note(line(event))

    def _of_opponent(self) -> dict[str, Any]:
        """The second player's line of the log; nothing before it plays."""
        opponent = self.state.opponent
        if opponent is None:
            return {}
        sums, self._opponents = opponent.meter.read(opponent.guard.figures())
        skipped = int(dict(zip(Guard.FIGURES, self._opponents, strict=True))["skipped"])
        if not sums.get("steps"):  # none, or all of them skipped
            return {"adversary_skipped": skipped}
        return {
            "adversary_loss": sums["loss"] / sums["tokens"],
            "adversary_grad_norm": sums["norm"] / sums["steps"],
            "adversary_skipped": skipped,
            **opponent.rival.figures(sums),
        }

    def new_stage(self) -> None:
        """Another window, another level of the loss: what was usual is so no more."""
        self.state.guard.reset()
        if self.state.opponent is not None:
            self.state.opponent.guard.reset()
        self.state.forget_graphs()
        self._alarms.forget()
        self.state.counters.losses = self.state.counters.losses[:1]

    # Going back

    def gone_wrong(self) -> str | None:
        """Why the training should not go on from here, decided on what was just read."""
        figures = dict(zip(Guard.FIGURES, self._figures, strict=True))
        wrong = halting.exhausted(figures, self.config.guard) or halting.diverged(self.state.counters.losses)
        if wrong or self.state.opponent is None:
            return wrong
        opponents = dict(zip(Guard.FIGURES, self._opponents, strict=True))
        wrong = halting.exhausted(opponents, self.config.guard)
        return wrong and f"of the adversary {wrong}"

    def roll_back(self, reason: str) -> None:
        """Return to the last good checkpoint with a lower rate and other data. Raises TRAIN004 if that is used up."""
        rollbacks, guard = self.state.counters.rollbacks, self.config.guard
        self.keeper.settle(wait=True)
        target = self.keeper.last_good() if len(rollbacks) < guard.rollbacks else None
        if target is None:
            raise PartimentoError(
                "TRAIN004",
                f"at step {self.step} {reason}",
                where=str(self.run.path),
                why=self._why_not_back(len(rollbacks)),
                next=f"start a new run with a lower rate: optim.lr={self.config.optim.lr / 3:.2g}",
            )
        left = self.step
        self.keeper.load(target, "abandoned")
        self._alarms.load(self.state.counters.alarms)
        if self.main:
            for played in checkpoint.visible(self.run.demos_path):
                if played.name > target.name:  # by weights that are no more; these steps play anew
                    checkpoint.set_aside(played, "abandoned")
        if self.state.opponent is not None:
            self.state.opponent.guard.forgive()
        self.state.guard.forgive()  # its last skips led here; one more would not be a reason to go back again
        self.state.counters.rollbacks = [*rollbacks, {"step": left, "to": self.step, "reason": reason}]
        factor = self.state.rate_factor
        self.event("rollback", at=left, reason=reason, attempt=len(rollbacks) + 1, rate_factor=factor)
        self.progress.note(f"step {left}: {reason}; back to step {self.step} with {factor:g} of the rate")

    def _why_not_back(self, made: int) -> str:
        if made >= self.config.guard.rollbacks:
            return f"{made} rollbacks did not help" if made else "guard.rollbacks is 0"
        return "there is no good checkpoint before it"

    # Ending

    def ending(self, stop: Stop, reading: bool) -> str | None:
        """Several ranks agree, which makes them wait for each other, so they ask at the scheduled reads only."""
        minutes = self.config.train.max_minutes
        if self.step == self.config.train.steps:
            return "finished"
        over = minutes is not None and time.monotonic() - self._began >= 60 * minutes
        wish = 2 if stop.requested else int(over)
        if self.parallel.world > 1:
            wish = self.parallel.agree(wish) if reading else 0
            self._save_asked = bool(reading and self.parallel.agree(int(stop.save)))
            stop.save = stop.save and not self._save_asked
        else:
            self._save_asked, stop.save = stop.save, False
        if wish == 2:
            stop.requested = stop.requested or "another rank"
        return {0: None, 1: "max_minutes", 2: "interrupted"}[wish]

    def early(self) -> str | None:
        """Whether the validations so far say that more steps are of no use."""
        if reason := halting.stop_early(self.state.counters.validations, self.config.guard):
            self.event("halt", reason=reason)
            self.progress.note(f"stopped early: {reason}")
            return "stopped early"
        return None

    def end(self, reason: str) -> None:
        self.keeper.settle(wait=True)
        self.event("end", reason=reason)
        if reason == "max_minutes":
            self.progress.note(f"the time is over at step {self.step}; the command with --run {self.run.id} goes on")

    def give_up(self, err: PartimentoError) -> None:
        """Write why the run ends, if there is room for it, and let a full disk name the command that goes on."""
        if err.code == "SYS002":
            err.next = f"free some space (df -h .), then: {resume_command(self.run.path)}"
            return
        self.event("end", reason=err.code)

    # Judging, saving, playing

    def validate(self) -> None:
        """Judge the averaged and the raw weights; the score is that of the averaged ones where there are any."""
        counters = self.state.counters
        figures: dict[str, Any] = {}
        for which in ("raw", "ema") if self.state.ema is not None else ("raw",):
            figures = self._evaluated(which)
            self.event("valid", weights=which, **figures)
        score = self.parallel.share(self._scored(figures))  # ranks that differed in a bit would part ways here
        best = counters.best
        self.improved = score is not None and (best is None or score < best["score"])
        if self.improved:
            counters.best = {"step": self.step, "score": score}
        self._validated = (self.step, score, figures)
        if self.step % self.config.train.valid_every:
            return  # the rules of stopping count what every way through the run has, however often it was cut
        trained, counters.trained = counters.trained, {}
        mean = trained["loss"] / trained["tokens"] if trained.get("tokens") else None
        entry = {"step": self.step, "score": score, "train_loss": mean}
        rules = self.config.guard
        needed = 1 + max(rules.stop_after or 0, rules.stop_overfit or 0)
        counters.validations = [*counters.validations, entry][-max(HISTORY, needed) :]

    def _evaluated(self, which: str) -> dict[str, Any]:
        # In float32, but for blocks that FSDP gathers in bfloat16: their inputs have to be, too.
        precision = self.config.train.precision if self.state.sharded else "fp32"
        with self.state.using(which), devices.autocast(self.device, precision):
            return self.task.evaluate(self.parallel.sum_)

    def _scored(self, figures: Mapping[str, Any]) -> float | None:
        """The figure that checkpoints are compared by; None if it is not finite. Raises TRAIN057 if there is none."""
        name = self.config.train.metric or self.task.score
        score = checkpoint.figure(figures, name)
        if not isinstance(score, int | float):
            names = sorted(key for key, value in figures.items() if isinstance(value, int | float))
            raise PartimentoError(
                "TRAIN057",
                f"the validation has no figure {name!r}",
                where="train.metric",
                why=f"it has {', '.join(names)}; dots lead into lists: ce_K.0",
                next=f"train.metric={self.task.score}",
            )
        return float(score) if math.isfinite(score) else None

    def save_due(self) -> bool:
        return self._planned() or self._save_asked

    def _planned(self) -> bool:
        """Whether this step is saved whatever happens from outside."""
        return self.step % self.config.train.save_every == 0 or self._archive_due()

    def _archive_due(self) -> bool:
        every = self.config.train.archive_every
        return every is not None and self.step % every == 0

    def save(self) -> None:
        score, figures = self._validated[1:] if self._validated[0] == self.step else (None, {})
        opponent = self.state.opponent
        guards = [self.state.guard] if opponent is None else [self.state.guard, opponent.guard]
        place = Guard.FIGURES.index("skipped_in_a_row")
        in_a_row = max(float(guard.figures()[place]) for guard in guards)
        # A rollback returns to planned checkpoints only: one that a signal asked for would lead elsewhere than the run
        # that had none.
        good = self._planned() and in_a_row == 0 and halting.healthy(self.state.counters.losses)
        best, self.improved = self.improved, False
        self.keeper.save(score, figures, good=good, best=best, archive=self._archive_due())

    def demo_due(self) -> bool:
        return bool(self.config.demo.every) and self.step % self.config.demo.every == 0

    def demo(self, stop: Stop, goes_on: bool = False) -> None:
        """Play, unless this step has its demos. A checkpoint of the same step comes first, so this may be dropped."""
        self.keeper.settle(wait=True)
        if not self.config.demo.temperatures:
            return
        there = self.parallel.share((self.run.demos_path / checkpoint.step_name(self.step)).exists())
        if there:
            return
        self.progress.stage("demos", f"what the model plays after {self.step} steps, to be heard in the report")
        with stop.at_once():
            using = self.state.playing()
            if using is not None and (path := self.task.demos(self.run.demos_path, self.step, using)) is not None:
                self.event("demo", path=str(path.relative_to(self.run.path)))
                for kind, figures in demos.read(path).events():
                    self.event(kind, **figures)
            self.parallel.barrier()
        if goes_on:
            self.progress.stage("train", self._plan())

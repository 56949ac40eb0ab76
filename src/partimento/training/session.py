"""What happens around the steps of a training: beginning or going on, going back, ending, saving, playing.

With several ranks all of them come here and decide alike, from values that are equal on all; the main one writes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.progress import Progress
from partimento.runs import checkpoint, demos
from partimento.runs.events import read_events
from partimento.runs.presence import here
from partimento.runs.run import Run, resume_command
from partimento.training import halting
from partimento.training.feed import Feed
from partimento.training.flow import Flow, line
from partimento.training.guards import Guard
from partimento.training.journal import Journal
from partimento.training.judging import Judging
from partimento.training.keeper import Keeper
from partimento.training.pace import Pace
from partimento.training.readings import Readings
from partimento.training.rehearsal import audit, rehearse
from partimento.training.stages import settings_at
from partimento.training.state import State, check_identity
from partimento.training.stop import Stop


class Session:
    """One call of `train` on one run. What it tells is in `journal`, what it reads while it goes in `readings`, how it
    is validated in `judging`, what it keeps in `keeper`."""

    def __init__(self, run: Run, state: State, progress: Progress) -> None:
        self.run, self.state, self.progress = run, state, progress
        self.config, self.task, self.parallel = state.config, state.task, state.parallel
        self.main = self.parallel.main
        self.journal = Journal(run, state, progress)
        self.keeper = Keeper(run, state, self.journal.append)
        self.pace = Pace(state)
        self.readings = Readings(state, self.journal, self.pace)
        self.judging = Judging(state, self.journal)
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
        finally:
            for text in self.journal.close_trackers():  # not yet at an end that could be logged: the disk is full
                self.progress.note(text)

    @property
    def step(self) -> int:
        return self.state.counters.step

    # Beginning

    def begin(self, stop: Stop) -> None:
        """Load the newest whole checkpoint, or start from nothing if the run has none."""
        check_identity(self.run.record.get("identity", {}), self.task.identity, self.task.history)
        if self.main:
            for place in (self.run.checkpoints_path, self.run.demos_path):
                place.mkdir(exist_ok=True)
                commit.sweep(place)
        found = self.keeper.newest(self.journal.note)
        if found is None:
            self.journal.open_trackers()
            self.journal.event("start", **self.state.environment(), **self.state.tables(), **here())
            if experts := self.task.description.get("experts"):
                self.journal.event("experts", **experts)  # what was taken from another model: `runs.transplanted`
            for text in self.task.notes:
                self.journal.note(text)
            with stop.at_once():
                self.task.start()
                if self.config.train.metric is not None:
                    self.judging.require_score()  # a name that no validation has is told before step 1
        else:
            self._go_on(found)
        self.journal.event("audit", **audit(self.state))
        if self.main and not any(event["kind"] == "baseline" for event in read_events(self.run.events_path)):
            with stop.at_once():
                if figures := self.task.baselines():
                    self.journal.event("baseline", **figures)
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
        self.readings.go_on()
        self.journal.open_trackers()
        self.journal.event("resume", checkpoint=path.name, **self.state.environment(), **here())
        for text in notes:
            self.journal.note(text)

    def _plan(self) -> str:
        begin = f"on from step {self.step} " if self.step else ""
        return f"{begin}to step {self.config.train.steps}; Ctrl-C saves and says how to go on"

    def _begin_flow(self, new: bool) -> None:
        """Who is to learn, before the first step; on a resume only what the audit has not told yet."""
        past = [event for event in read_events(self.run.events_path) if event["kind"] == "flow"] if self.main else []
        told = self.parallel.share([{"when": event["when"], "prints": event.get("prints")} for event in past])
        self._flow = Flow(self.state)
        if new:
            self.journal.event("flow", **self._flow.before())
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

    def audit_flow(self, rate: float) -> None:
        """Look once more at who learns, when each player has made its first steps; nothing before and after that."""
        if self._flow is None or not (due := self._flow.due()):
            return
        event, notes = self._flow.after(due, rate)
        self.journal.event("flow", **event)
        for text in notes:
            self.journal.note(text)
        if not notes:
            self.progress.note(line(event))

    def new_stage(self) -> None:
        """Another window, another level of the loss: what was usual is so no more."""
        self.state.guard.reset()
        if self.state.opponent is not None:
            self.state.opponent.guard.reset()
        self.state.forget_graphs()
        self.readings.forget()

    # Going back

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
        self.readings.go_on()
        if self.main:
            for played in checkpoint.visible(self.run.demos_path):
                if played.name > target.name:  # by weights that are no more; these steps play anew
                    checkpoint.set_aside(played, "abandoned")
        if self.state.opponent is not None:
            self.state.opponent.guard.forgive()
        self.state.guard.forgive()  # its last skips led here; one more would not be a reason to go back again
        self.state.counters.rollbacks = [*rollbacks, {"step": left, "to": self.step, "reason": reason}]
        factor = self.state.rate_factor
        self.journal.event("rollback", at=left, reason=reason, attempt=len(rollbacks) + 1, rate_factor=factor)
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

    def end(self, reason: str) -> None:
        self.keeper.settle(wait=True)
        self.journal.end(reason)
        if reason == "max_minutes":
            self.progress.note(f"the time is over at step {self.step}; the command with --run {self.run.id} goes on")

    def give_up(self, err: PartimentoError) -> None:
        """Write why the run ends, if there is room for it, and let a full disk name the command that goes on."""
        if err.code == "SYS002":
            err.next = f"free some space (df -h .), then: {resume_command(self.run.path)}"
            return
        self.journal.end(err.code)

    # Saving, playing

    def save_due(self) -> bool:
        return self._planned() or self._save_asked

    def _planned(self) -> bool:
        """Whether this step is saved whatever happens from outside."""
        return self.step % self.config.train.save_every == 0 or self._archive_due()

    def _archive_due(self) -> bool:
        every = self.config.train.archive_every
        return every is not None and self.step % every == 0

    def save(self) -> None:
        score, figures = self.judging.of(self.step)
        opponent = self.state.opponent
        guards = [self.state.guard] if opponent is None else [self.state.guard, opponent.guard]
        place = Guard.FIGURES.index("skipped_in_a_row")
        in_a_row = max(float(guard.figures()[place]) for guard in guards)
        # A rollback returns to planned checkpoints only: one that a signal asked for would lead elsewhere than the run
        # that had none.
        good = self._planned() and in_a_row == 0 and halting.healthy(self.state.counters.losses)
        best, self.judging.improved = self.judging.improved, False
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
                self.journal.event("demo", path=str(path.relative_to(self.run.path)))
                for kind, figures in demos.read(path).events():
                    self.journal.event(kind, **figures)
            self.parallel.barrier()
        if goes_on:
            self.progress.stage("train", self._plan())

"""What happens around the steps of a training: beginning or going on, counting, logging, judging, saving, playing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from partimento import commit
from partimento.config import Config
from partimento.errors import PartimentoError
from partimento.progress import Progress
from partimento.runs import checkpoint
from partimento.runs.events import EventLog, read_events
from partimento.runs.run import Run, resume_command
from partimento.training import devices
from partimento.training.state import State, check_identity
from partimento.training.stop import Stop
from partimento.training.task import Task

PATIENCE = 10  # steps in a row without a finite loss and gradient, after which the training ends


class Session:
    """One call of `train` on one run. `improved`: the last validation was the best so far, and is not yet saved."""

    def __init__(self, run: Run, config: Config, task: Task, device: torch.device, progress: Progress) -> None:
        self.run = run
        self.config = config
        self.task = task
        self.device = device
        self.progress = progress
        self.events = EventLog(run.events_path)
        self.state = State(config, task, device)
        self.improved = False
        self.saved = 0  # step of the newest checkpoint
        self._validated: tuple[int, float | None] = (-1, None)  # step, score
        self._seconds: list[float] = []
        self._began = time.monotonic()

    @property
    def step(self) -> int:
        return self.state.counters.step

    def begin(self, stop: Stop) -> None:
        """Load the newest whole checkpoint, or start from nothing if the run has none."""
        check_identity(self.run.record.get("identity", {}), self.task.identity, self.task.history)
        folder = self.run.checkpoints_path
        for place in (folder, self.run.demos_path):
            place.mkdir(exist_ok=True)
            commit.sweep(place)
        path = checkpoint.newest(folder, note=self.note)
        environment = devices.describe(self.device)
        if path is None:
            self.events.append("start", 0, **environment)
            with stop.at_once():
                self.task.start()
        else:
            for newer in checkpoint.visible(folder):
                if newer.name > path.name:  # they did not verify, and their steps will be written again
                    checkpoint.set_aside(newer)
            notes = self.state.load(path)
            self.saved = self.step
            self.events.append("resume", self.step, checkpoint=path.name, **environment)
            for text in notes:
                self.note(text)
        if not any(event["kind"] == "baseline" for event in read_events(self.run.events_path)):
            with stop.at_once():
                if figures := self.task.baselines():
                    self.events.append("baseline", self.step, **figures)
        if self.step and (self.step == self.config.train.steps or self.demo_due()):
            self.demo(stop)  # a kill between the checkpoint and its demos left them out
        if self.step < self.config.train.steps:
            self.progress.stage("train", self._plan())

    def _plan(self) -> str:
        begin = f"on from step {self.step} " if self.step else ""
        return f"{begin}to step {self.config.train.steps}; Ctrl-C saves and says how to go on"

    def demo_due(self) -> bool:
        return bool(self.config.demo.every) and self.step % self.config.demo.every == 0

    def note(self, text: str) -> None:
        self.events.append("note", self.step, text=text)
        self.progress.note(text)

    def record_step(
        self,
        loss: float,
        norm: float,
        tokens: float,
        facts: list[Mapping[str, Tensor | float]],
        skipped: bool,
        seconds: float,
    ) -> None:
        """Count one step; raises TRAIN004 after PATIENCE steps in a row that were not finite."""
        counters = self.state.counters
        self._seconds.append(seconds)
        if skipped:
            counters.skipped += 1
            counters.skipped_in_a_row += 1
            self.note(f"step {self.step} was skipped: loss {loss}, gradient norm {norm}")
            if counters.skipped_in_a_row >= PATIENCE:
                raise PartimentoError(
                    "TRAIN004",
                    f"{PATIENCE} steps in a row had no finite loss and gradient",
                    where=f"{self.run.path}, step {self.step}",
                    next=f"start a new run with a lower rate: optim.lr={self.config.optim.lr / 3:.2g}",
                )
        else:
            counters.skipped_in_a_row = 0
            sums = {"steps": 1.0, "loss": loss * tokens, "tokens": tokens, "norm": norm}
            for seen in facts:
                for name, value in seen.items():
                    sums[f"facts.{name}"] = sums.get(f"facts.{name}", 0.0) + float(value) / len(facts)
            for name, value in sums.items():
                counters.window[name] = counters.window.get(name, 0.0) + value
        self.progress.update(self.step, self.config.train.steps, loss=round(loss, 4))

    def log(self, rate: float) -> None:
        """One line over the steps since the last one; the loss is the mean over their tokens, skipped steps apart."""
        window, counters = self.state.counters.window, self.state.counters
        seconds = sum(self._seconds) / len(self._seconds)
        items = self.config.optim.batch * self.config.optim.accumulate
        steps = window.get("steps", 0.0)
        facts = {name[6:]: total / steps for name, total in window.items() if name.startswith("facts.")}
        self.events.append(
            "train",
            self.step,
            loss=window["loss"] / window["tokens"] if steps else None,
            grad_norm=window["norm"] / steps if steps else None,
            lr=rate,
            seconds=seconds,
            frames_per_second=items * self.task.item_frames / seconds,
            skipped=counters.skipped,
            **facts,
        )
        counters.window = {}
        self._seconds = []

    def ending(self, stop: Stop) -> str | None:
        minutes = self.config.train.max_minutes
        if self.step == self.config.train.steps:
            return "finished"
        if stop.requested:
            return "interrupted"
        if minutes is not None and time.monotonic() - self._began >= 60 * minutes:
            return "max_minutes"
        return None

    def validate(self) -> None:
        """Judge the averaged and the raw weights; the score is that of the averaged ones where there are any."""
        score = None
        for which in ("raw", "ema") if self.state.ema is not None else ("raw",):
            with self.state.using(which):
                figures = self.task.evaluate()
            self.events.append("valid", self.step, weights=which, **figures)
            score = figures.get(self.task.score)
        if score is not None and not math.isfinite(score):
            score = None
        best = self.state.counters.best
        self.improved = score is not None and (best is None or score < best["score"])
        if self.improved:
            self.state.counters.best = {"step": self.step, "score": score}
        self._validated = (self.step, score)

    def save(self) -> None:
        score = self._validated[1] if self._validated[0] == self.step else None
        path = self.state.save(self.run.checkpoints_path, score)
        self.saved = self.step
        checkpoint.prune(self.run.checkpoints_path, self.config.train.keep)
        self.events.append("checkpoint", self.step, path=str(path.relative_to(self.run.path)), best=self.improved)
        self.improved = False

    def demo(self, stop: Stop) -> None:
        """Play, unless this step has its demos. A checkpoint of the same step comes first, so this may be dropped."""
        if (self.run.demos_path / checkpoint.step_name(self.step)).exists():
            return
        self.progress.stage("demos", f"what the model plays after {self.step} steps, to be heard in the report")
        with stop.at_once():
            path = self.task.demos(self.run.demos_path, self.step, self.state.using)
        if path is not None:
            self.events.append("demo", self.step, path=str(path.relative_to(self.run.path)))
        if self.step < self.config.train.steps:
            self.progress.stage("train", self._plan())

    def give_up(self, err: PartimentoError) -> None:
        """Write why the run ends, if there is room for it, and let a full disk name the command that goes on."""
        if err.code == "SYS002":
            err.next = f"free some space (df -h .), then: {resume_command(self.run.path)}"
            return
        self.events.append("end", self.step, reason=err.code)

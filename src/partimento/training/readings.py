"""The scheduled readings of a training: the line of the log, the alarms, and whether it has gone wrong.

They are the only times at which the host waits for what the steps have computed.
"""

from __future__ import annotations

from typing import Any

from partimento.training import halting
from partimento.training.alarms import Alarms
from partimento.training.guards import Guard
from partimento.training.journal import Journal
from partimento.training.meter import BIG, SMALL
from partimento.training.pace import Pace
from partimento.training.stages import settings_at
from partimento.training.state import State


class Readings:
    """What was read last, of both players, and what the alarms remember."""

    def __init__(self, state: State, journal: Journal, pace: Pace) -> None:
        self.state, self.journal, self.pace = state, journal, pace
        self.config, self.task = state.config, state.task
        self._figures: list[float] = []  # of the guard
        self._opponents: list[float] = []  # of the second player's guard
        self._alarms = Alarms.of(state.config)

    def go_on(self) -> None:
        """With what the alarms remembered at the checkpoint that was just loaded."""
        self._alarms.load(self.state.counters.alarms)

    def forget(self) -> None:
        """What was usual is so no more."""
        self._alarms.forget()
        self.state.counters.losses = self.state.counters.losses[:1]

    def log(self, rate: float) -> None:
        """One line over the steps since the last one; skipped steps are counted apart."""
        counters = self.state.counters
        sums, self._figures = self.state.meter.read(self.state.guard.figures())
        guard = dict(zip(Guard.FIGURES, self._figures, strict=True))
        skipped = int(guard["skipped"])
        skip: dict[str, Any] = {}
        if skipped > counters.skipped:
            skip = {"skip": {name[5:]: guard[name] for name in Guard.FIGURES[4:]}}
            self.journal.note(f"{skipped - counters.skipped} steps were skipped; {halting.last_skip(guard)}")
        counters.skipped = skipped
        steps = sums.get("steps", 0.0)
        noise = {name: sums.pop(name) / steps for name in (SMALL, BIG) if name in sums and steps}
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
            **skip,
            **noise,
            **self.pace.read(settings_at(self.config, counters.step - 1)),
            **(self.task.figures(sums) if steps else {}),
            **self._of_opponent(),
        }
        self.journal.event("train", **figures)
        self._raise_alarms(figures, rate)
        shown = round(loss, 4) if loss is not None else "-"
        self.journal.progress.update(counters.step, self.config.train.steps, loss=shown)

    def _raise_alarms(self, figures: dict[str, Any], rate: float) -> None:
        step = self.state.counters.step
        for alarm in self._alarms.read(step, figures, rate):
            self.journal.event("alarm", alarm=alarm.kind, text=alarm.text, remedy=alarm.remedy)
            self.journal.progress.note(f"step {step}: {alarm.kind}: {alarm.text}; what helps: {alarm.remedy}")
        self.state.counters.alarms = self._alarms.state()

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

    def gone_wrong(self) -> str | None:
        """Why the training should not go on from here, decided on what was just read."""
        figures = dict(zip(Guard.FIGURES, self._figures, strict=True))
        wrong = halting.exhausted(figures, self.config.guard) or halting.diverged(self.state.counters.losses)
        if wrong or self.state.opponent is None:
            return wrong
        opponents = dict(zip(Guard.FIGURES, self._opponents, strict=True))
        wrong = halting.exhausted(opponents, self.config.guard)
        return wrong and f"of the adversary {wrong}"

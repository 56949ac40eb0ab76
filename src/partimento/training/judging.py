"""The validations of a training: the figures of the held-out items, the score, the best so far, an early end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.judged import Items
from partimento.training import devices, halting
from partimento.training.journal import Journal
from partimento.training.state import State
from partimento.training.task import ITEMS

HISTORY = 64  # validations that are remembered


class Judging:
    """`improved`: the last validation was the best so far, and is not yet saved."""

    def __init__(self, state: State, journal: Journal) -> None:
        self.state, self.journal = state, journal
        self.config, self.task, self.parallel = state.config, state.task, state.parallel
        self.improved = False
        self._last: tuple[int, float | None, dict[str, Any]] = (-1, None, {})  # step, score, figures

    def of(self, step: int) -> tuple[float | None, dict[str, Any]]:
        """Score and figures of the validation after that step; none where it was not validated."""
        return self._last[1:] if self._last[0] == step else (None, {})

    def require_score(self) -> None:
        """Evaluates once. Raises TRAIN057 where no validation has the figure that checkpoints are compared by."""
        self._scored(self._evaluated("raw")[0])

    def validate(self) -> None:
        """Judge the averaged and the raw weights; the score is that of the averaged ones where there are any."""
        counters = self.state.counters
        figures: dict[str, Any] = {}
        for which in ("raw", "ema") if self.state.ema is not None else ("raw",):
            figures, items = self._evaluated(which)
            self.journal.event("valid", weights=which, **figures)
        self.journal.items(which, items)
        score = self.parallel.share(self._scored(figures))  # ranks that differed in a bit would part ways here
        best = counters.best
        self.improved = score is not None and (best is None or score < best["score"])
        if self.improved:
            counters.best = {"step": counters.step, "score": score}
        self._last = (counters.step, score, figures)
        if counters.step % self.config.train.valid_every:
            return  # the rules of stopping count what every way through the run has, however often it was cut
        trained, counters.trained = counters.trained, {}
        mean = trained["loss"] / trained["tokens"] if trained.get("tokens") else None
        entry = {"step": counters.step, "score": score, "train_loss": mean}
        rules = self.config.guard
        needed = 1 + max(rules.stop_after or 0, rules.stop_overfit or 0)
        counters.validations = [*counters.validations, entry][-max(HISTORY, needed) :]

    def early(self) -> str | None:
        """Whether the validations so far say that more steps are of no use."""
        if reason := halting.stop_early(self.state.counters.validations, self.config.guard):
            self.journal.event("halt", reason=reason)
            self.journal.progress.note(f"stopped early: {reason}")
            return "stopped early"
        return None

    def _evaluated(self, which: str) -> tuple[dict[str, Any], Items | None]:
        """Figures in all, which are logged, and of every item, which are kept beside the log."""
        # In float32, but for blocks that FSDP gathers in bfloat16: their inputs have to be, too.
        precision = self.config.train.precision if self.state.sharded else "fp32"
        with self.state.using(which), devices.autocast(self.state.device, precision):
            figures = self.task.evaluate(self.parallel.sum_)
        return {name: value for name, value in figures.items() if name != ITEMS}, figures.get(ITEMS)

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

"""What is known of a run while it trains: fed with events, asked for figures."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.lab.verdict import SOUND
from partimento.runs.events import Event
from partimento.runs.hypotheses import hypotheses
from partimento.runs.presence import alive
from partimento.runs.run import Run

ALARMS = ("alarm", "rollback", "halt")
RECENT = 20  # lines of the log that speed and remaining time are read from
QUIET_SECONDS = 60.0  # shorter silences are never called a stall
FIRST_SECONDS = 600.0  # nor are these before a process has logged its first step: data is opened, models are compiled
Points = dict[int, float]


@dataclass(frozen=True)
class Condition:
    """`state`: new, running, stalled, silent (another machine's, nothing for long), killed, ended."""

    state: str
    sentence: str


class Watched:
    """`silent_for` (seconds, by the watcher's clock) is told by who reads the file: clocks of two machines differ."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.score = "mel7" if run.record["family"] in SOUND else "bits_per_second"
        self.planned: int | None = run.record["config"].get("train", {}).get("steps")
        self.forget()

    def forget(self) -> None:
        """Before the log is read again from its beginning."""
        self.begun: Event | None = None
        self.ended: Event | None = None
        self.baseline: Event = {}
        self.lines: dict[int, Event] = {}
        self.losses: Points = {}
        self.valid_losses: Points = {}
        self.scores: dict[str, Points] = {}
        self.alarms: deque[Event] = deque(maxlen=3)
        self.hypotheses = [one.text for one in hypotheses(self.run, [])]
        self.last: Event | None = None
        self._stepped = False
        self._longest = 0.0  # seconds between two events of one process

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        kind, step = event["kind"], event["step"]
        time = event.get("time")
        if kind in ("start", "resume"):
            self.begun, self.ended, self._stepped = event, None, False
        elif self.last is not None and time is not None and self.last.get("time") is not None:
            self._longest = max(self._longest, time - self.last["time"])
        if kind in ("resume", "rollback"):
            self._return_to(step)
        elif kind == "train":
            self._stepped = True
            self.lines[step] = event
            _put(self.losses, step, event.get("loss"))
        elif kind == "valid":
            _put(self.scores.setdefault(str(event.get("weights")), {}), step, event.get(self.score))
            if event.get("weights") == "ema" or "ema" not in self.scores:
                known = [value for value in event.get("ce_K") or [] if value is not None]
                _put(self.valid_losses, step, statistics.fmean(known) if known else None)
        elif kind == "baseline":
            self.baseline = event
        elif kind == "end":
            self.ended = event
        elif kind == "hypothesis":
            self.hypotheses.append(str(event.get("text")))
        if kind in ALARMS:
            self.alarms.append(event)
        if time is not None:
            self.last = event

    def _return_to(self, step: int) -> None:
        """Steps after this one are no more: they come again, from other weights or other data."""
        series: tuple[dict[int, Any], ...] = (self.lines, self.losses, self.valid_losses, *self.scores.values())
        for points in series:
            for gone in [known for known in points if known > step]:
                del points[gone]

    @property
    def step(self) -> int | None:
        return None if self.last is None else self.last["step"]

    @property
    def line(self) -> Event:
        """The last line of the log with figures of training; {} before the first."""
        return self.lines[max(self.lines)] if self.lines else {}

    @property
    def weights(self) -> str | None:
        """Those whose score is shown: the averaged ones, if they were judged."""
        return next((name for name in ("ema", "raw", "None") if self.scores.get(name)), None)

    @property
    def floor(self) -> tuple[str, float] | None:
        """What the score is measured against: its name, and the figure."""
        name, key = ("input", "input_mel7") if self.score == "mel7" else ("bigram", "bigram_bits_per_second")
        value = self.baseline.get(key)
        return None if value is None else (name, value)

    def seconds_left(self) -> float | None:
        """By the pace of the last lines of this process, with the validations between them."""
        begun = self.begun["time"] if self.begun and self.begun.get("time") else 0.0
        recent = [line for _, line in sorted(self.lines.items())[-RECENT:] if (line.get("time") or 0.0) >= begun]
        if len(recent) < 2 or self.planned is None or self.step is None:
            return None
        steps, seconds = recent[-1]["step"] - recent[0]["step"], recent[-1]["time"] - recent[0]["time"]
        return max(0, self.planned - self.step) * seconds / steps if steps > 0 and seconds >= 0 else None

    def condition(self, silent_for: float) -> Condition:
        if self.ended is not None:
            return Condition("ended", f"ended: {self.ended.get('reason')}")
        if self.begun is None or self.last is None:
            return Condition("new", "no event yet: the data is opened, or the model is made")
        process, quiet = alive(self.begun), span(silent_for)
        if process is False:
            return Condition(
                "killed", f"killed: its process is gone, without an end in the log; last event {quiet} ago"
            )
        long = silent_for > max(QUIET_SECONDS if self._stepped else FIRST_SECONDS, 3 * self._longest)
        if process is None and long:
            return Condition("silent", f"silent for {quiet}: stalled or killed (its process cannot be seen from here)")
        if long:
            return Condition("stalled", f"stalled? its process lives, and has logged nothing for {quiet}")
        return Condition("running", f"running; last event {quiet} ago")

    def to_json(self, silent_for: float) -> dict[str, Any]:
        """What the frame shows, as numbers; None is what was not logged."""
        condition, line, weights = self.condition(silent_for), self.line, self.weights
        score = self.scores[weights] if weights else {}
        return {
            "run": str(self.run.path),
            "state": condition.state,
            "condition": condition.sentence,
            "step": self.step,
            "steps": self.planned,
            "seconds_left": self.seconds_left() if condition.state == "running" else None,
            "loss": line.get("loss"),
            "grad_norm": line.get("grad_norm"),
            "lr": line.get("lr"),
            "frames_per_second": line.get("frames_per_second"),
            "data_wait": line.get("data_wait"),
            "peak_bytes": line.get("peak_bytes"),
            "skipped": line.get("skipped"),
            "score": self.score,
            "weights": weights,
            "scored": score[max(score)] if score else None,
            "floor": self.floor[1] if self.floor else None,
            "hypotheses": self.hypotheses,
            "alarms": [{name: event[name] for name in event if name != "time"} for event in self.alarms],
        }


def _put(points: Points, step: int, value: Any) -> None:
    if isinstance(value, int | float):
        points[step] = float(value)


def span(seconds: float) -> str:
    """A time in words, to the figure that matters."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.0f} days"


def watched(path: str | Path) -> Watched:
    """The run at `path`. Raises RUN001, RUN002."""
    return Watched(Run.open(path))

"""What happened on a day: runs and what they logged by the end of it, and the commits of the working directory."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab.ablation.state import RECORD
from partimento.lab.verdict import SoundVerdict, Verdict, verdict_of
from partimento.lab.watching.watched import QUIET_SECONDS, Watched
from partimento.runs.events import Event, read_events
from partimento.runs.hypotheses import Hypothesis, hypotheses
from partimento.runs.run import Run

Date = datetime.date
KILLED = "killed: its process is gone without an end in the log"


@dataclass(frozen=True)
class Experiment:
    """A run up to the end of a day, or all of it. `later`: it went on after that day."""

    run: Run
    events: list[Event]
    later: bool

    @property
    def hypotheses(self) -> list[Hypothesis]:
        return hypotheses(self.run, self.events)

    @property
    def verdict(self) -> Verdict | SoundVerdict:
        return verdict_of(self.run.record["family"], self.events)

    @property
    def created(self) -> str:
        return str(self.run.record.get("created", ""))

    @property
    def steps(self) -> tuple[int | None, int | None]:
        """Reached (None before the first event), and planned (None where it was not recorded)."""
        reached = max((event["step"] for event in self.events), default=None)
        return reached, self.run.record["config"].get("train", {}).get("steps")

    @cached_property
    def state(self) -> str:
        """How it stands, in a few words, when it is first asked for: soon after the log was read."""
        seen = Watched(self.run)
        seen.feed(self.events)
        if self.later and seen.ended is None:
            return "went on the next day"
        times = [event["time"] for event in self.events if event.get("time") is not None]
        now = datetime.datetime.now().timestamp()
        condition = seen.condition(max(0.0, now - times[-1]) if times else QUIET_SECONDS)
        said = {
            "new": "not begun",
            "running": "training",
            "stalled": "stalled: it lives and logs nothing",
            "silent": "silent: stalled, or killed on another machine",
            "killed": KILLED,
        }
        return said.get(condition.state, condition.sentence.removeprefix("ended: "))

    @property
    def status(self) -> str:
        """The same with the step."""
        reached, planned = self.steps
        return self.state + (f" at step {reached:,} of {planned:,}" if reached is not None and planned else "")

    def until(self, day: Date) -> Experiment | None:
        """As it was when `day` ended; None where nothing of it happened on that day."""
        if day not in self.days():
            return None
        known = [event for event in self.events if event.get("time") is None or _day(event["time"]) <= day]
        return Experiment(self.run, known, True) if len(known) < len(self.events) else self

    def days(self) -> set[Date]:
        """Local days on which it logged anything, or was created."""
        days = {_day(event["time"]) for event in self.events if event.get("time") is not None}
        created = _created(self.run.record)
        return days | ({created} if created else set())


def experiments(runs: Path) -> tuple[list[Experiment], list[str]]:
    """All runs of the folder, and of the ablations in it, in the order of their making; and what cannot be read."""
    found, problems = [], []
    folders = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    inside = [path for folder in folders if (folder / RECORD).is_file() for path in sorted(folder.iterdir())]
    for path in [*folders, *inside]:
        if not (path / "run.json").is_file():
            continue
        try:
            found.append(_read(Run.open(path)))
        except (PartimentoError, OSError) as err:
            problems.append(
                f"{path.relative_to(runs)}: {err.message if isinstance(err, PartimentoError) else err.strerror}"
            )
    return sorted(found, key=lambda one: (one.created, one.run.id)), problems


def _read(run: Run) -> Experiment:
    one = Experiment(run, read_events(run.events_path), False)
    if one.state == KILLED:  # or it ended well after its log was read
        one = Experiment(run, read_events(run.events_path), False)
    return one


def nearest(one: Experiment, others: Sequence[Experiment]) -> tuple[Experiment, list[tuple[str, Any, Any]]] | None:
    """The earlier run of the same family with the fewest differences, of equals the latest, and the differences as
    (key, here, there). None where there is no earlier one."""
    before = [
        other
        for other in others
        if (other.created, other.run.id) < (one.created, one.run.id)
        and other.run.record["family"] == one.run.record["family"]
    ]
    if not before:
        return None
    rated = [(len(found := differences(one, other)), -number, other, found) for number, other in enumerate(before)]
    _, _, other, found = min(rated, key=lambda row: row[:2])
    return other, found


def differences(one: Experiment, other: Experiment) -> list[tuple[str, Any, Any]]:
    """(key, here, there) of the configurations, of the data and of the program."""
    here, there = _facts(one.run), _facts(other.run)
    return [
        (key, here.get(key), there.get(key))
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]


def _facts(run: Run) -> dict[str, Any]:
    facts = flat(run.record["config"])
    facts |= {f"identity.{key}": value for key, value in flat(run.record.get("identity") or {}).items()}
    facts["commit"] = re.sub(r"^([0-9a-f]{10})[0-9a-f]+", r"\1", str(run.record.get("commit") or "unknown"))
    return facts


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@dataclass(frozen=True)
class Commits:
    """(hash, time of day, subject) of a day; or why there are none to show."""

    rows: tuple[tuple[str, str, str], ...] = ()
    missing: str | None = None


def commits(day: Date, folder: Path) -> Commits:
    """Of the current branch of the repository that `folder` is in."""
    span = [f"--since={day.isoformat()}T00:00:00", f"--until={day.isoformat()}T23:59:59"]
    form = "--format=%h%x09%cd%x09%s"
    arguments = ["git", "-C", str(folder), "log", *span, form, "--date=format-local:%H:%M", "--no-color", "--reverse"]
    try:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(arguments, capture_output=True, timeout=20, env=environment)
    except OSError:
        return Commits(missing="git is not installed")
    except subprocess.TimeoutExpired:
        return Commits(missing="git did not answer within 20 s")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return Commits(missing=said[-1] if said else "git failed")
    rows = [line.split("\t", 2) for line in done.stdout.decode(errors="replace").splitlines()]
    return Commits(tuple((row[0], row[1], row[2]) for row in rows if len(row) == 3))


def _day(time: float) -> Date:
    return datetime.datetime.fromtimestamp(time).date()


def _created(record: dict[str, Any]) -> Date | None:
    try:
        return datetime.datetime.fromisoformat(str(record["created"])).astimezone().date()
    except (KeyError, ValueError):
        return None

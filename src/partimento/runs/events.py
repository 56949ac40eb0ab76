"""`events.jsonl`: what happened in a run, one JSON object a line, append-only.

Every line has `kind`, `step` and `time` (seconds since 1970). Kinds and their values:
start(process, machine, optimizer, ...), resume(checkpoint, process, machine, ...), hypothesis(text), audit(...),
baseline(...), valid(weights, ...),
train(loss, lr, grad_norm, seconds, frames_per_second, skipped, ...), demo(path), checkpoint(path, best, archived),
experts(folder, sha256, report, replaced): what was taken from another model, see `transplanted`,
demo_figures(weights, temperature, guidance, told, ...) and demo_data(...): figures of what was played, and of the data,
note(text), rollback(at, reason, attempt, rate_factor), halt(reason), end(reason).
A number that is not finite is written as null, never as 0.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partimento import commit

Event = dict[str, Any]


class EventLog:
    """The writing end. Each line is in the file before `append` returns, so a killed process loses none."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def append(self, kind: str, step: int, **values: Any) -> Event:
        event = {"kind": kind, "step": step, "time": round(time.time(), 3), **plain(values)}
        commit.append_line(self.path, json.dumps(event, ensure_ascii=False, allow_nan=False))
        return event


def read_events(path: Path) -> list[Event]:
    """All events in the order of writing.

    A torn last line (it may be being written right now) is left out. A torn line further up, which a power loss leaves
    behind, appears as an event of kind "torn" that names its line, so that a reader can count them.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    events: list[Event] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        event = parse_line(line)
        if event is not None:
            events.append(event)
        elif number < len(lines):
            events.append({"kind": "torn", "step": events[-1]["step"] if events else 0, "time": None, "line": number})
    return events


def curve(events: Sequence[Event], kind: str, key: str, **where: Any) -> list[tuple[int, Any]]:
    """(step, value) of `key` over the events of one kind, in order of steps; `where` selects, e.g. weights="ema".

    A step that was logged twice (before a kill and after the resume) counts once, by its later line.
    """
    found = {
        event["step"]: event[key]
        for event in events
        if event["kind"] == kind and key in event and all(event.get(name) == want for name, want in where.items())
    }
    return sorted(found.items())


def parse_line(line: bytes) -> Event | None:
    """One line of the log; None where it is none."""
    try:
        event = json.loads(line)
    except ValueError:  # also an invalid UTF-8 sequence
        return None
    return event if isinstance(event, dict) and "kind" in event and "step" in event else None


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: a number that is not finite is None, never 0."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value

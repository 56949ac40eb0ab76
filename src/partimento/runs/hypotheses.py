"""What a run is to find out: the hypothesis it was started with, and those that were added when it was resumed.

The record of a run never changes, so what is added is an event, beside the first one and never in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partimento.runs.events import Event, read_events
from partimento.runs.run import Run


@dataclass(frozen=True)
class Hypothesis:
    """`step` and `time` (seconds since 1970) are of the resume that added it, None for that of the record."""

    text: str
    step: int | None = None
    time: float | None = None


def hypotheses(run: Run, events: Sequence[Event]) -> list[Hypothesis]:
    """All of a run, in the order in which they were given."""
    first = run.record.get("hypothesis")
    found = [Hypothesis(str(first))] if first else []
    for event in events:
        if event["kind"] == "hypothesis" and event.get("text"):
            found.append(Hypothesis(str(event["text"]), event["step"], event.get("time")))
    return found


def addition(run: Run, text: str | None) -> str | None:
    """`text` where the run does not know it yet, to be logged beside the others; None where there is nothing to add."""
    known = [one.text for one in hypotheses(run, read_events(run.events_path))]
    return text if text and text not in known else None

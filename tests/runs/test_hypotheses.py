"""The hypothesis of a run: added to when it is resumed, never changed."""

from __future__ import annotations

from pathlib import Path

from partimento.config import parse
from partimento.runs.events import EventLog, read_events
from partimento.runs.hypotheses import Hypothesis, addition, hypotheses
from partimento.runs.run import Run


def test_a_resume_adds_and_changes_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path, parse({"family": "rvq", "data": {"pack": "p"}}), hypothesis="first")
    record = (run.path / "run.json").read_bytes()
    assert addition(run, None) is None and addition(run, "first") is None
    assert addition(run, "second") == "second"
    event = EventLog(run.events_path).append("hypothesis", 20, text="second")
    assert addition(run, "second") is None
    found = hypotheses(run, read_events(run.events_path))
    assert found == [Hypothesis("first"), Hypothesis("second", 20, event["time"])]
    assert (run.path / "run.json").read_bytes() == record

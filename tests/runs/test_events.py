from __future__ import annotations

import json
from pathlib import Path

from partimento.runs.events import EventLog, curve, read_events


def test_lines_are_plain_json(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("train", 10, loss=2.5, grad_norm=float("nan"), ce_K=(1.0, float("inf")), where=tmp_path)
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    event = json.loads(line, parse_constant=lambda name: 1 / 0)
    assert event["kind"] == "train" and event["step"] == 10 and event["loss"] == 2.5 and event["time"] > 1e9
    assert event["grad_norm"] is None and event["ce_K"] == [1.0, None]


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == []


def test_a_torn_line_costs_itself_only(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append("train", 1, loss=1.0)
    log.append("train", 2, loss=2.0)
    whole = log.path.read_bytes()
    for cut in range(len(whole) - 1, whole.index(b"\n") + 1, -1):
        log.path.write_bytes(whole[:cut])
        assert [event["step"] for event in read_events(log.path)] in ([1], [1, 2])
    log.path.write_bytes(whole[:-9] + b"\xff\xfe")
    log.append("train", 3, loss=3.0)
    events = read_events(log.path)
    assert [event["kind"] for event in events] == ["train", "torn", "train"]
    assert events[1]["line"] == 2
    assert curve(events, "train", "loss") == [(1, 1.0), (3, 3.0)]


def test_a_line_that_is_json_but_no_event_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('3\n{"kind": "note", "step": 1, "time": 0}\n{"no": 1}\n')
    assert [event["kind"] for event in read_events(path)] == ["torn", "note", "torn"]


def test_the_later_of_two_lines_of_a_step_wins(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for step, loss in ((10, 5.0), (20, 4.0), (10, 5.5), (30, 3.0)):
        log.append("train", step, loss=loss)
    log.append("valid", 10, weights="ema", bits=1.0)
    log.append("valid", 10, weights="raw", bits=2.0)
    events = read_events(log.path)
    assert curve(events, "train", "loss") == [(10, 5.5), (20, 4.0), (30, 3.0)]
    assert curve(events, "valid", "bits", weights="raw") == [(10, 2.0)]
    assert curve(events, "train", "nothing") == []

"""Watching a run from its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab_fakes import finish_run

from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab.logbook.gather import experiments
from partimento.lab.watching import live, watched
from partimento.lab.watching.braille import Stroke, draw
from partimento.lab.watching.tail import Tail
from partimento.lab.watching.watched import Watched
from partimento.runs import presence
from partimento.runs.events import EventLog, read_events
from partimento.runs.run import Run


def line(step: int, kind: str = "train", **values: object) -> bytes:
    return json.dumps({"kind": kind, "step": step, "time": float(step), **values}).encode() + b"\n"


def test_the_tail_reads_what_is_new_and_waits_for_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == []  # not there yet
    path.write_bytes(line(1) + line(2)[:-9])
    assert [event["step"] for event in tail.read()] == [1]
    with path.open("ab") as file:
        file.write(line(2)[-9:] + b"\0\0\0\n" + line(3))
    assert [event["step"] for event in tail.read()] == [2, 3] and tail.torn == 1 and tail.read() == []


def test_the_tail_of_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1) + line(2))
    tail = Tail(path)
    tail.read()
    path.write_bytes(line(7))  # cut
    assert [event["step"] for event in tail.read()] == [7] and tail.restarted
    (tmp_path / "other").write_bytes(line(8) + line(9) * 9)
    (tmp_path / "other").replace(path)
    assert tail.read()[0]["step"] == 8 and tail.restarted
    assert tail.read() == [] and not tail.restarted


def test_steps_before_a_rollback_are_no_more(run: Run) -> None:
    seen = Watched(run)
    seen.feed([{"kind": "train", "step": step, "time": float(step), "loss": 1.0} for step in (10, 20, 30)])
    seen.feed([{"kind": "rollback", "step": 10, "time": 31.0, "reason": "diverged"}])
    assert sorted(seen.losses) == [10] and seen.alarms[-1]["kind"] == "rollback"


def test_seconds_left_are_those_of_this_process(run: Run) -> None:
    seen = Watched(run)
    seen.feed([{"kind": "train", "step": 10, "time": 0.0}, {"kind": "resume", "step": 10, "time": 1000.0}])
    assert seen.seconds_left() is None
    seen.feed([{"kind": "train", "step": step, "time": 1000.0 + step} for step in (20, 40)])
    assert seen.seconds_left() == 560.0  # of 600 steps, one a second


def process(ended: bool) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    if ended:
        child.communicate(b"\n")
    return child


@pytest.mark.parametrize(
    ("gone", "machine", "silence", "state"),
    [
        (False, None, 5, "running"),
        (False, None, 500, "stalled"),
        (True, None, 5, "killed"),
        (False, "0000", 5, "running"),
        (False, "0000", 500, "silent"),
    ],
)
def test_alive_stalled_or_killed(run: Run, tmp_path: Path, monkeypatch, gone, machine, silence, state) -> None:
    monkeypatch.setattr(presence, "LOCKS", tmp_path / "none")
    child = process(ended=gone)
    seen = Watched(run)
    begun = {"process": child.pid, "machine": machine or commit.machine()}
    seen.feed([{"kind": "start", "step": 0, "time": 1.0, **begun}, {"kind": "train", "step": 10, "time": 2.0}])
    assert seen.condition(silence).state == state
    seen.feed([{"kind": "end", "step": 10, "time": 3.0, "reason": "finished"}])
    assert seen.condition(silence).sentence == "ended: finished"
    seen.feed([{"kind": "resume", "step": 10, "time": 4.0, **begun}])
    assert seen.condition(5).state != "ended"
    if not gone:
        child.communicate(b"\n")


def test_a_process_of_the_same_number_without_the_lock_is_another_one(tmp_path: Path, monkeypatch) -> None:
    locks = tmp_path / "locks"
    monkeypatch.setattr(presence, "LOCKS", locks)
    locks.write_text("1: FLOCK  ADVISORY  WRITE 1 08:01:99 0 EOF\n")
    assert presence.alive(presence.here()) is False
    locks.write_text(f"1: FLOCK  ADVISORY  WRITE {os.getpid()} 08:01:99 0 EOF\n")
    assert presence.alive(presence.here()) is True
    assert presence.alive({"process": None, "machine": commit.machine()}) is None


def test_a_curve_falls_from_the_left_above_to_the_right_below() -> None:
    drawing = draw([Stroke({0: 1.0, 100: 0.0}, "blue")], 10, 5)
    assert drawing is not None and (drawing.top, drawing.bottom, drawing.cut) == (1.0, 0.0, False)
    text = ["".join(sign for sign, _ in row) for row in drawing.rows]
    assert text[0][0] != " " and text[-1][-1] != " " and text[0][-1] == " " and text[-1][0] == " "
    assert draw([Stroke({}, "blue"), Stroke({-1: 3.0}, "red")], 10, 5) is None


def test_a_spike_at_the_beginning_is_cut_and_said() -> None:
    points = {step: 1.0 + step / 1000 for step in range(200)} | {0: 900.0}
    drawing = draw([Stroke(points, "blue")], 20, 5)
    assert drawing is not None and drawing.cut and drawing.top < 2


def test_one_picture_has_80_columns(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    live.show(run.path, once=True)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= 24
    for said in ("ended: finished", "“Delays help.”", "step 600 of 600", "bigram", "frames/s", "not logged"):
        assert said in out
    assert any(0x2800 < ord(sign) < 0x2900 for sign in out)


def test_figures_for_machines(run: Run) -> None:
    found = live.watch(run.path)
    assert found["state"] == "ended" and found["step"] == 600 and found["peak_bytes"] is None
    assert found["scored"] < found["floor"] and found["weights"] == "ema"
    json.dumps(found, allow_nan=False)


def test_a_run_without_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = finish_run(tmp_path)
    made.events_path.unlink()
    live.show(made.path, once=True)
    assert "no event yet" in capsys.readouterr().out


def test_no_terminal(run: Run) -> None:
    with pytest.raises(PartimentoError) as caught:
        live.show(run.path)
    assert caught.value.code == "LAB091" and "--once" in str(caught.value.next)


def test_a_run_that_ends_between_two_questions_was_not_killed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is read, then it ends, then its process is looked for."""
    log = EventLog(run.events_path)
    log.append("resume", 10, **presence.here())

    def gone(event: object) -> bool:
        if read_events(run.events_path)[-1]["kind"] != "end":
            log.append("end", 20, reason="finished")
        return False

    monkeypatch.setattr(watched, "alive", gone)
    (one,) = experiments(run.path.parent)[0]
    assert one.state == "finished"
    log.append("resume", 20, **presence.here())
    assert live.watch(run.path)["state"] == "ended"


def test_before_its_first_step_a_run_may_be_silent_for_longer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "alive", lambda event: True)
    seen = Watched(run)
    seen.feed([{"kind": "start", "step": 0, "time": 1.0}])
    assert [seen.condition(seconds).state for seconds in (500, 700)] == ["running", "stalled"]
    seen.feed([{"kind": "train", "step": 1, "time": 2.0}])
    assert seen.condition(500).state == "stalled"


def test_a_validation_is_not_cut_off_with_the_first_steps() -> None:
    trained = {step: 9.0 if step < 20 else 1.0 for step in range(0, 2000, 10)}
    drawing = draw([Stroke(trained, "blue"), Stroke({500: 1.2, 1000: 1.6}, "red")], 40, 5)
    assert drawing is not None and drawing.cut and drawing.top == 1.6

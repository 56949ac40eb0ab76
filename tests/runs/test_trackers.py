"""Trackers beside a training: whatever they do, it neither waits nor ends; and what they are told."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.runs import trackers
from partimento.runs.events import EventLog, read_events
from partimento.runs.run import Run
from partimento.runs.trackers import afterwards
from partimento.runs.trackers.sidecar import Sidecar
from partimento.runs.trackers.tracker import Facts
from partimento.runs.trackers.translate import numbers, send, text

FACTS = Facts("r", "r-1", Path("r"), {}, None, 0)


class Told:
    """A tracker that remembers; `during` is called in every figure."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.during = during

    def open(self, facts: Facts) -> None:
        self.calls.append(("open", facts.step))

    def figures(self, step: int, time: float, figures: Any) -> None:
        self.during()
        self.calls.append(("figures", step, dict(figures)))

    def text(self, step: int, time: float, name: str, text: str) -> None:
        self.calls.append(("text", step, name, text))

    def sound(self, step: int, time: float, name: str, wave_NC: Any, rate: int) -> None:
        self.calls.append(("sound", step, name, wave_NC, rate))

    def close(self) -> None:
        self.calls.append(("close",))


def train(step: int) -> dict[str, Any]:
    return {"kind": "train", "step": step, "time": 1.0, "loss": 2.0}


def beside(tracker: Told, room: int = 1024) -> Sidecar:
    return Sidecar({"fake": (tracker, FACTS)}, Path("runs/r"), room)


def test_events_arrive_in_order_and_all_of_them_before_the_end() -> None:
    tracker = Told()
    sidecar = beside(tracker)
    for step in range(50):
        sidecar.put(train(step))
    assert sidecar.close() == [] and sidecar.close() == []
    assert [call[1] for call in tracker.calls[1:-1]] == list(range(50)) and tracker.calls[-1] == ("close",)


def test_a_tracker_that_blocks_delays_nothing_and_is_left_behind() -> None:
    never = threading.Event()
    sidecar = beside(Told(during=lambda: never.wait() and None), room=4)
    for step in range(100):
        sidecar.put(train(step))  # would hang here if a step waited for the tracker
    lines = sidecar.close(seconds=0.05)
    assert "left behind" in lines[0] and "partimento track runs/r --to fake" in lines[0]
    assert "of 100 events were dropped" in lines[1]
    never.set()


def test_a_tracker_that_is_slow_loses_the_oldest_and_says_how_many() -> None:
    gate, begun = threading.Event(), threading.Event()
    tracker = Told(during=lambda: (begun.set(), gate.wait())[0])
    sidecar = beside(tracker, room=4)
    sidecar.put(train(0))
    assert begun.wait(10)
    for step in range(1, 21):
        sidecar.put(train(step))
    gate.set()
    lines = sidecar.close()
    assert [call[1] for call in tracker.calls if call[0] == "figures"] == [0, 17, 18, 19, 20]
    assert lines == [
        "the tracker fake was too slow: 16 of 21 events were dropped; partimento track runs/r --to fake sends all"
    ]


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), SystemExit(1), KeyboardInterrupt()])
def test_a_tracker_that_raises_is_switched_off_with_one_line(raised: BaseException) -> None:
    def fail() -> None:
        raise raised

    other = Told()
    sidecar = Sidecar({"bad": (Told(during=fail), FACTS), "good": (other, FACTS)}, Path("r"))
    for step in range(10):
        sidecar.put(train(step))
    lines = [*sidecar.told(), *sidecar.close()]
    assert len(lines) == 1 and "bad was switched off" in lines[0] and type(raised).__name__ in lines[0]
    assert sum(call[0] == "figures" for call in other.calls) == 10


def test_a_tracker_that_cannot_begin_is_switched_off() -> None:
    tracker = Told()
    tracker.open = lambda facts: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    sidecar = beside(tracker)
    assert "ZeroDivisionError" in sidecar.close()[0]


def test_names_of_figures() -> None:
    event = {"kind": "valid", "step": 1, "time": 1.0, "weights": "ema", "ce_K": [1.0, None, 3], "bits_per_second": 9.5,
             "good": True, "path": "x"}  # fmt: skip
    want = {"valid_ema/ce/1": 1.0, "valid_ema/ce/3": 3.0, "valid_ema/bits_per_second": 9.5}
    assert dict(numbers(event)) == want  # what was not finite is missing, not 0
    played = {"kind": "demo_figures", "step": 1, "time": 1.0, "weights": "ema", "temperature": 0.5, "guidance": 1.0,
              "told": False, "entropy": 2.0}  # fmt: skip
    assert dict(numbers(played)) == {"demo_figures_ema_t0.5_g1.0_untold/entropy": 2.0}
    alarm = {"kind": "alarm", "step": 1, "time": 1.0, "alarm": "plateau", "text": "It stands.", "remedy": "Wait."}
    assert text(alarm) == "plateau: It stands. What helps: Wait."


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """With a quiet stereo demo, and a log as after a kill: steps 20 and 30 twice."""
    config = parse({"family": "rvq", "data": {"pack": "p"}})
    run = Run.create(tmp_path, config, run_id="r", hypothesis="it learns")
    folder = run.path / "demos" / "step-000000030"
    folder.mkdir(parents=True)
    wave = (0.01 * np.sin(np.arange(4410) / 10)).astype(np.float32)
    soundfile.write(folder / "quiet.flac", np.stack([wave, -wave], axis=1), 44100)
    content = {"schema": 2, "step": 30, "demos": [{"file": "quiet.flac", "kind": "played"}], "figures": []}
    (folder / "demos.json").write_text(json.dumps(content))
    log = EventLog(run.events_path)
    log.append("start", 0, device="cpu")
    for step in (10, 20, 30, 20, 30):
        log.append("train", step, loss=float(step), lr=float("nan"))
    log.append("demo", 30, path="demos/step-000000030")
    log.append("note", 30, text="a *note*")
    log.append("end", 30, reason="finished")
    return run


def test_sounds_are_the_integers_of_the_file(run: Run) -> None:
    tracker = Told()
    for event in read_events(run.events_path):
        send(tracker, event, run.path)
    ((_, step, name, wave_NC, rate),) = [call for call in tracker.calls if call[0] == "sound"]
    assert (step, name, rate) == (30, "demos/quiet", 44100)
    assert wave_NC.dtype == np.int16 and wave_NC.shape == (4410, 2)
    assert 320 < np.abs(wave_NC).max() < 335  # 0.01 of full level: nothing was scaled up


def test_a_log_that_points_outside_of_its_run(run: Run) -> None:
    with pytest.raises(PartimentoError) as caught:
        send(Told(), {"kind": "demo", "step": 1, "time": 1.0, "path": "../../elsewhere"}, run.path)
    assert caught.value.code == "RUN011"


def test_a_missing_package_is_told_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    trackers.require([])
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(PartimentoError) as caught:
        trackers.require(["trackio"])
    assert caught.value.code == "RUN010" and "partimento[trackers]" in str(caught.value.next)


def test_names_are_strict() -> None:
    with pytest.raises(PartimentoError) as caught:
        parse({"family": "rvq", "data": {"pack": "p"}, "train": {"trackers": ["tensorbord"]}})
    assert caught.value.code.startswith("CONFIG")


def test_sending_twice_replaces_and_a_failure_keeps_what_was_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writes(Told):
        def open(self, facts: Facts) -> None:
            facts.folder.mkdir(parents=True)
            self.file = (facts.folder / "told.txt").open("w")

        def figures(self, step: int, time: float, figures: Any) -> None:
            self.file.write(f"{step}\n")

        def close(self) -> None:
            self.file.close()

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", Writes)
    monkeypatch.setattr(afterwards, "require", lambda names: None)
    for _ in range(2):
        made = afterwards.track(run.path, "tensorboard")
    told = run.path / "trackers" / "tensorboard" / "told.txt"
    assert made["events"] == 9 and told.read_text().split() == ["10", "20", "30", "20", "30"]
    monkeypatch.setattr(Writes, "figures", lambda *_: 1 / 0)
    with pytest.raises(PartimentoError) as caught:
        afterwards.track(run.path, "tensorboard")
    assert caught.value.code == "RUN011" and told.read_text().split() == ["10", "20", "30", "20", "30"]
    with pytest.raises(PartimentoError) as caught, run.hold():
        afterwards.track(run.path, "tensorboard")
    assert caught.value.code == "RUN003"


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_what_was_written(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = afterwards.track(run.path, "tensorboard")
    read = EventAccumulator(made["folder"], size_guidance={"scalars": 0, "audio": 0, "tensors": 0})
    read.Reload()
    # The steps before the kill are gone, those after the resume are there once.
    assert [(point.step, point.value) for point in read.Scalars("train/loss")] == [(10, 10.0), (20, 20.0), (30, 30.0)]
    (sound,) = read.Audio("demos/quiet")
    import io

    wave, rate = soundfile.read(io.BytesIO(sound.encoded_audio_string), dtype="int16")
    want, _ = soundfile.read(run.path / "demos" / "step-000000030" / "quiet.flac", dtype="int16")
    assert rate == 44100 and np.array_equal(wave, want)
    tags = read.Tags()["tensors"]
    assert {"hypothesis/text_summary", "note/text_summary", "end/text_summary"} <= set(tags)
    (note,) = read.Tensors("note/text_summary")
    assert note.tensor_proto.string_val[0] == b"a *note*"


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_the_run_once(run: Run, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    code = (
        "import sys; from partimento.runs.trackers.afterwards import track; track(sys.argv[1], 'trackio');"
        "track(sys.argv[1], 'trackio'); import trackio;"
        "print([r.name for r in trackio.Api().runs('partimento')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)],
        capture_output=True, text=True, env={**os.environ, "TRACKIO_DIR": str(tmp_path / "store")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.replace("'", '"'))) == 1  # and nothing else on stdout

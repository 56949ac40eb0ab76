"""Saving beside the training: what is written is the state at `submit`, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs import checkpoint, tensorfiles
from partimento.runs import saver as saver_module
from partimento.runs.saver import Saver

LONG = 60.0  # seconds after which a test that waits for another thread gives up


class SlowWriter:
    """Stands in for `tensorfiles.write`: it says when it has begun and goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.threads: list[str] = []
        real = tensorfiles.write

        def write(path: Path, tensors: Any) -> None:
            self.threads.append(threading.current_thread().name)
            self.begun.set()
            assert self.go_on.wait(LONG)
            real(path, tensors)

        monkeypatch.setattr(tensorfiles, "write", write)


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    weight = torch.full((4, 6), value)
    return {"model": {"w": weight, "tied": weight, "turned": weight.T}, "optimizer": {"w.exp_avg": weight.clone()}}


def test_what_is_written_is_the_state_at_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWriter(monkeypatch)
    saver = Saver(tmp_path)
    live, state = parts(1.0), {"counters": {"step": 4}}
    saver.submit(4, live, state)
    assert slow.begun.wait(LONG), "submit came back while the write was going on"
    assert checkpoint.visible(tmp_path) == [] and saver.settle() == []
    for tensors in live.values():
        for tensor in tensors.values():
            tensor.fill_(float("nan"))
    state["counters"]["step"] = 5
    slow.go_on.set()
    saver.wait()
    assert saver.settle() == [tmp_path / checkpoint.step_name(4)] and saver.settle() == []
    found = checkpoint.load(tmp_path / checkpoint.step_name(4))
    assert found.state["counters"] == {"step": 4}
    for part, tensors in parts(1.0).items():
        assert all(torch.equal(found.parts[part][name], tensor) for name, tensor in tensors.items())
    assert all(name.startswith("saver") for name in slow.threads)


def test_the_bytes_are_those_of_a_synchronous_save(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    odd = {
        "model": {"turned": base.T, "row": base[1], "flag": torch.tensor(True), "half": base.bfloat16(), "no": base[:0]}
    }
    saver = Saver(tmp_path / "beside")
    for step in (1, 2):  # the second into the memory of the first
        base.add_(1)
        odd["model"]["half"] = base.bfloat16()
        saver.submit(step, odd, {"seed": 3})
        want = checkpoint.save(tmp_path / "at once", step, odd, {"seed": 3})
        saver.wait()
        (path,) = saver.settle()
        assert {f.name: f.read_bytes() for f in path.iterdir()} == {f.name: f.read_bytes() for f in want.iterdir()}


def test_memory_is_used_again_unless_the_tensors_change(tmp_path: Path) -> None:
    saver = Saver(tmp_path)
    saver.submit(1, parts(1.0), {})
    saver.wait()
    before = {name: tensor.data_ptr() for name, tensor in saver._host.items()}
    saver.submit(2, parts(2.0), {})
    saver.wait()
    assert {name: tensor.data_ptr() for name, tensor in saver._host.items()} == before
    saver.submit(3, {"model": {"w": torch.zeros(9)}}, {})
    saver.wait()
    assert [*saver._host] == [("model", "w")]
    assert checkpoint.load(tmp_path / checkpoint.step_name(3)).parts["model"]["w"].shape == (9,)


def test_a_second_submit_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWriter(monkeypatch)
    saver = Saver(tmp_path)
    saver.submit(1, parts(1.0), {})
    assert slow.begun.wait(LONG)
    second = threading.Thread(target=saver.submit, args=(2, parts(2.0), {}))
    second.start()
    assert second.is_alive() and checkpoint.visible(tmp_path) == []
    slow.go_on.set()
    second.join(LONG)
    saver.wait()
    assert saver.settle() == [tmp_path / checkpoint.step_name(step) for step in (1, 2)]


def test_callbacks_run_where_they_should(tmp_path: Path) -> None:
    told: list[tuple[str, str, Path]] = []

    def tell(what: str) -> Any:
        return lambda path: told.append((what, threading.current_thread().name, path))

    saver = Saver(tmp_path)
    saver.submit(1, parts(1.0), {}, done=tell("done"), after=tell("after"))
    saver.wait()
    path = tmp_path / checkpoint.step_name(1)
    assert [(what, found) for what, _, found in told] == [("after", path), ("done", path)]
    assert told[0][1].startswith("saver") and told[1][1] == threading.current_thread().name


@pytest.mark.parametrize("ask", ["submit", "wait", "settle"])
def test_a_full_disk_is_told_at_the_next_call_and_costs_that_save_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    saver = Saver(tmp_path)
    saver.submit(1, parts(1.0), {})
    saver.wait()
    failed = threading.Event()

    def full(*_: Any) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorfiles, "write", full)
    saver.submit(2, parts(2.0), {}, done=lambda path: pytest.fail("it is not done"))
    assert failed.wait(LONG)
    monkeypatch.undo()
    while not saver._going[0].done():  # settle does not wait
        pass
    with pytest.raises(PartimentoError, match="SYS002"):
        saver.submit(3, parts(3.0), {}) if ask == "submit" else getattr(saver, ask)()
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.step_name(1)]
    assert saver.settle() == [tmp_path / checkpoint.step_name(1)], "what was done before is not forgotten"
    saver.submit(3, parts(3.0), {})
    saver.wait()
    assert saver.settle() == [tmp_path / checkpoint.step_name(3)]


def test_what_json_cannot_hold_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON"):
        Saver(tmp_path).submit(1, parts(1.0), {"loss": object()})


def test_figures_that_are_not_finite_are_null(tmp_path: Path) -> None:
    """A validation of a model that diverged must not end the training with a fault of the program."""
    saver = Saver(tmp_path)
    saver.submit(1, parts(1.0), {"figures": {"ce": float("nan"), "ce_K": (1.0, float("inf"))}})
    saver.wait()
    assert checkpoint.load(tmp_path / checkpoint.step_name(1), ()).state["figures"] == {"ce": None, "ce_K": [1.0, None]}


def test_ctrl_c_while_waiting_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWriter(monkeypatch)
    saver = Saver(tmp_path)
    saver.submit(1, parts(1.0), {})
    assert slow.begun.wait(LONG)
    waiting, real = threading.Event(), saver_module.wait

    def noticed(futures: Any, timeout: float) -> Any:
        waiting.set()
        return real(futures, timeout)

    def interrupt() -> None:
        assert waiting.wait(LONG)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(saver_module, "wait", noticed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = threading.Thread(target=interrupt)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            saver.wait()
    finally:
        other.join(LONG)
        signal.signal(signal.SIGINT, before)
    slow.go_on.set()
    saver.wait()
    assert saver.settle() == [tmp_path / checkpoint.step_name(1)]
    checkpoint.load(tmp_path / checkpoint.step_name(1))


CHILD = """
import sys, threading, torch
from pathlib import Path
from partimento.runs import tensorfiles
from partimento.runs.saver import Saver
real = tensorfiles.write
def write(path, tensors):
    if path.stem == "optimizer":
        print("half\\n", end="", flush=True)
        sys.stdin.readline()
    real(path, tensors)
tensorfiles.write = write
Saver(Path(sys.argv[1])).submit(1, {"model": {"w": torch.ones(9)}, "optimizer": {"w.exp_avg": torch.ones(9)}}, {})
print("submitted\\n", end="", flush=True)  # in one piece: two threads print
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_a_process_that_ends_during_a_save(tmp_path: Path, end: str) -> None:
    """Killed: nothing torn is visible, and the next save clears up. Ended normally: the save is finished first."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    assert {child.stdout.readline().strip(), child.stdout.readline().strip()} == {"half", "submitted"}
    assert checkpoint.visible(tmp_path) == []
    if end == "exit":
        child.communicate("go on\n", timeout=LONG)
        assert child.returncode == 0
    else:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
        (left,) = tmp_path.iterdir()
        assert left.name.endswith(commit.TMP) and checkpoint.newest(tmp_path) is None
        checkpoint.save(tmp_path, 1, parts(1.0), {})
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.step_name(1)]
    checkpoint.load(tmp_path / checkpoint.step_name(1))

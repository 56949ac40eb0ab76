from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from partimento import commit
from partimento.errors import PartimentoError


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    commit.record(target, {"b": 1, "a": [2]})
    before = target.read_bytes()

    def fail(tmp: Path) -> None:
        tmp.write_text("half")
        raise ValueError("the writer broke")

    with pytest.raises(ValueError):
        commit.file(target, fail)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_full_disk_is_a_coded_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    real = getattr(os, call)

    def full(*args: object, **kwargs: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "a.txt"
    commit.text(target, "old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(PartimentoError) as caught:
        commit.text(target, "new")
    monkeypatch.setattr(os, call, real)
    assert caught.value.code == "SYS002" and target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_way_is_a_coded_error(tmp_path: Path) -> None:
    commit.text(tmp_path / "a.txt", "old")
    for path in (tmp_path / "a.txt" / "b.txt", tmp_path / "a.txt" / "deep" / "b.txt"):
        with pytest.raises(PartimentoError, match="SYS002") as caught:
            commit.text(path, "new")
        assert "in the way" in (caught.value.next or "")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), commit.folder(tmp_path / "step") as tmp:
        (tmp / "part").write_text("x")
        assert not (tmp_path / "step").exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with commit.folder(tmp_path / "step") as tmp:
        (tmp / "part").write_text("x")
    assert (tmp_path / "step" / "part").read_text() == "x"


def test_a_folder_replaces_what_a_killed_writer_left(tmp_path: Path) -> None:
    left = tmp_path / left_by(dead_process(), "step")
    left.mkdir()
    (left / "torn").write_text("x")
    with commit.folder(tmp_path / "step") as tmp:
        (tmp / "part").write_text("y")
        assert not left.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["step"]
    assert [p.name for p in (tmp_path / "step").iterdir()] == ["part"]


def test_a_torn_last_line_costs_itself_only(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    commit.append_line(log, '{"a": 1}')
    with log.open("ab") as stream:
        stream.write(b'{"a": 2, "torn')
    commit.append_line(log, '{"a": 3}')
    assert log.read_text().splitlines() == ['{"a": 1}', '{"a": 2, "torn', '{"a": 3}']


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def left_by(process: int, name: str, *, machine: str | None = None) -> str:
    """The name of what this process would have left behind."""
    return f"{name}.{machine or commit.machine()}-{process}-0123abcd.tmp"


def test_sweep_removes_what_is_dead_and_nothing_else(tmp_path: Path) -> None:
    gone = dead_process()
    (tmp_path / (left_by(gone, "a") + ".bin")).write_text("x")
    (tmp_path / left_by(gone, "folder")).mkdir()
    old = tmp_path / left_by(gone, "old", machine="01234567")
    old.mkdir()
    (tmp_path / "before.123.tmp.bin").write_text("of an older version")
    for path in (old, tmp_path / "before.123.tmp.bin"):
        os.utime(path, (1e9, 1e9))
    kept = {
        left_by(os.getpid(), "mine"),
        left_by(gone, "of another machine", machine="01234567"),
        "new.tmp",
        "kept.bin",
    }
    for name in kept:
        (tmp_path / name).write_text("x")
    commit.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == kept


def test_writers_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    """Threads that write the same names at once, and sweep: each file is one of those that were written."""

    def work(number: int) -> None:
        for turn in range(20):
            commit.text(tmp_path / "one", f"{number} " * 1000)
            with contextlib.suppress(OSError), commit.folder(tmp_path / f"folder {turn}") as tmp:
                (tmp / "a").write_text(str(number))
            commit.sweep(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    content = (tmp_path / "one").read_text()
    assert content in {f"{number} " * 1000 for number in range(4)}
    assert {p.name for p in tmp_path.iterdir()} == {"one", *(f"folder {turn}" for turn in range(20))}


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    name = "ä" * 125 + ".json"
    commit.text(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    with commit.lock(tmp_path / "lock"):
        with pytest.raises(BlockingIOError), commit.lock(tmp_path / "lock"):
            pass
        waiting = threading.Thread(target=_hold, args=(tmp_path / "lock",))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive() and list(tmp_path.iterdir()) == []


def _hold(path: Path) -> None:
    with commit.lock(path, wait=True):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "folder fsync"])
def test_every_step_of_a_write_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """The n-th call fails: a coded error, and the old file or the new one, whole."""
    commit.text(tmp_path / "a", "old")
    name, turn = ("fsync", 2) if call == "folder fsync" else (call, 1)
    place = Path if name == "replace" else os
    real, calls = getattr(place, name), 0

    def fail(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == turn:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(PartimentoError, match="SYS002"):
        patch.setattr(place, name, fail)
        commit.text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == ("new" if call == "folder fsync" else "old")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # the example of FIPS 180-2
    assert commit.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            commit.sha256(path)

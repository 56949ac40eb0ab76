from __future__ import annotations

import errno
import os
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
    left = tmp_path / "step.tmp"
    left.mkdir()
    (left / "torn").write_text("x")
    with commit.folder(tmp_path / "step") as tmp:
        (tmp / "part").write_text("y")
    assert [p.name for p in (tmp_path / "step").iterdir()] == ["part"]


def test_a_torn_last_line_costs_itself_only(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    commit.append_line(log, '{"a": 1}')
    with log.open("ab") as stream:
        stream.write(b'{"a": 2, "torn')
    commit.append_line(log, '{"a": 3}')
    assert log.read_text().splitlines() == ['{"a": 1}', '{"a": 2, "torn', '{"a": 3}']


def test_sweep_removes_leftovers_only(tmp_path: Path) -> None:
    (tmp_path / "a.123.tmp.bin").write_text("x")
    (tmp_path / "b.tmp").mkdir()
    (tmp_path / "kept.bin").write_text("x")
    commit.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.bin"]


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # the example of FIPS 180-2
    assert commit.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

"""Archives: links to what is immutable, under a name with the time, verified and pruned."""

from __future__ import annotations

import datetime
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from partimento.errors import PartimentoError
from partimento.runs import archives, checkpoint


class Clock(datetime.datetime):
    """A clock that goes on by an hour whenever it is read, in any zone."""

    hours = 0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        cls.hours += 1
        begin = datetime.datetime(2026, 11, 20, 22, 10, tzinfo=datetime.UTC)
        return (begin + datetime.timedelta(hours=cls.hours - 1)).astimezone(tz)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    Clock.hours = 0
    monkeypatch.setattr(datetime, "datetime", Clock)
    return Clock


def save(run: Path, step: int, score: float | None = None) -> Path:
    return checkpoint.save(
        run / "checkpoints", step, {"model": {"w": torch.full((300,), float(step))}}, {"score": score}
    )


def names(run: Path) -> list[str]:
    return [found.path.name for found in archives.listing(run)]


def test_an_archive_is_a_checkpoint_that_outlives_its_own(tmp_path: Path) -> None:
    assert archives.listing(tmp_path) == []
    source = save(tmp_path, 400)
    path = archives.archive(tmp_path, source, keep=3)
    assert path == tmp_path / "archives" / "20261120T221000Z-step-000000400"
    weights = path / "model.safetensors"
    assert weights.stat().st_ino == (source / "model.safetensors").stat().st_ino, "no bytes were copied"
    save(tmp_path, 500), save(tmp_path, 600)
    assert source in checkpoint.prune(tmp_path / "checkpoints", keep=2)
    found = checkpoint.load(path)
    assert found.step == 400 and torch.equal(found.parts["model"]["w"], torch.full((300,), 400.0))
    (listed,) = archives.listing(tmp_path)
    assert (listed.step, listed.best, listed.time) == (
        400,
        False,
        datetime.datetime(2026, 11, 20, 22, 10, tzinfo=datetime.UTC),
    )


def test_the_best_are_never_pruned(tmp_path: Path) -> None:
    for step in range(1, 6):
        archives.archive(tmp_path, save(tmp_path, step), keep=2, best=step in (1, 2))
    assert names(tmp_path) == [
        "20261120T221000Z-step-000000001-best",
        "20261120T231000Z-step-000000002-best",
        "20261121T011000Z-step-000000004",
        "20261121T021000Z-step-000000005",
    ]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
def test_where_links_fail_it_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    source = save(tmp_path, 1)

    def refuses(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuses)
    path = archives.archive(tmp_path, source, keep=1)
    assert (path / "model.safetensors").stat().st_ino != (source / "model.safetensors").stat().st_ino
    assert {f.name: f.read_bytes() for f in path.iterdir()} == {f.name: f.read_bytes() for f in source.iterdir()}
    checkpoint.verify(path)


def test_a_damaged_checkpoint_is_not_archived(tmp_path: Path) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    archives.archive(tmp_path, good, keep=1)
    (bad / "model.safetensors").write_bytes(b"x" * (bad / "model.safetensors").stat().st_size)
    with pytest.raises(PartimentoError, match="CKPT001"):
        archives.archive(tmp_path, bad, keep=1)
    assert [path.name for path in (tmp_path / "archives").iterdir()] == ["20261120T221000Z-step-000000001"]


def test_a_full_disk_leaves_the_archives_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives.archive(tmp_path, save(tmp_path, 1), keep=1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(PartimentoError, match="SYS002"):
        archives.archive(tmp_path, save(tmp_path, 2), keep=1)
    assert [path.name for path in (tmp_path / "archives").iterdir()] == ["20261120T221000Z-step-000000001"]


def test_what_killed_calls_left_is_cleared_up(tmp_path: Path) -> None:
    folder = tmp_path / "archives"
    for name in (
        "20261120T000000Z-step-000000001.0123abcd.tmp",  # in the middle of a removal
        "20261120T000000Z-step-000000002.00000000-1-0123abcd.tmp",  # on another machine, a moment ago
    ):
        (folder / name).mkdir(parents=True)
    archives.archive(tmp_path, save(tmp_path, 3), keep=1)
    assert len(names(tmp_path)) == 1
    assert sorted(p.name for p in folder.iterdir() if p.name.endswith(".tmp")) == [
        "20261120T000000Z-step-000000002.00000000-1-0123abcd.tmp"
    ]


def test_the_same_second_gives_the_same_archive(tmp_path: Path, clock: type[Clock]) -> None:
    source = save(tmp_path, 1)
    first = archives.archive(tmp_path, source, keep=5)
    clock.hours = 0
    assert archives.archive(tmp_path, source, keep=5) == first and len(names(tmp_path)) == 1


def test_parts_in_folders_are_archived_too(tmp_path: Path) -> None:
    """A sharded part; here of one device, which is all that the manifest has to know."""
    source = save(tmp_path, 1)
    (source / "model").mkdir()
    shard = (source / "model.safetensors").rename(source / "model" / "shard-00001.safetensors")
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["files"][shard.relative_to(source).as_posix()] = manifest["files"].pop("model.safetensors")
    (source / "manifest.json").write_text(json.dumps(manifest | {"shapes": {"model": {"w": [300]}}}))
    path = archives.archive(tmp_path, source, keep=1)
    assert torch.equal(checkpoint.load(path).parts["model"]["w"], torch.full((300,), 1.0))

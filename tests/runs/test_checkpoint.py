"""Checkpoints: whole or not at all, verified when read, readable by stock safetensors."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs import checkpoint


def save(folder: Path, step: int, score: float | None = None) -> Path:
    parts = {
        "model": {"w": torch.full((3, 4), float(step)), "n": torch.tensor(step)},
        "optimizer": {"w.exp_avg": torch.ones(3, 4)},
    }
    return checkpoint.save(folder, step, parts, {"score": score, "seed": 1})


def flip(file: Path, at: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_it_comes_back_as_it_went_in(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    parts = {
        "model": {
            "t": base.T,
            "part": base[1],
            "tied": base,
            "flag": torch.tensor(True),
            "slice": torch.arange(9000.0)[5:7],
        }
    }
    path = checkpoint.save(tmp_path, 12000, parts, {"seed": 3})
    assert path.name == "step-000012000"
    found = checkpoint.load(path)
    assert found.step == 12000 and found.state["seed"] == 3
    stock = load_file(path / "model.safetensors")
    for name, tensor in parts["model"].items():
        assert torch.equal(found.parts["model"][name], tensor) and torch.equal(stock[name], tensor)
    # A slice of a large buffer must not take the buffer along.
    assert (path / "model.safetensors").stat().st_size < 1500


def test_parts_can_be_read_alone(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    flip(path / "optimizer.safetensors")
    assert list(checkpoint.load(path, ("model",)).parts) == ["model"]
    with pytest.raises(PartimentoError, match="CKPT001"):
        checkpoint.load(path)
    with pytest.raises(PartimentoError, match=r"does not list ema\.safetensors"):
        checkpoint.load(path, ("ema",))


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove", "empty"])
def test_any_damage_is_found(tmp_path: Path, file: str, how: str) -> None:
    path = save(tmp_path, 5)
    victim = path / file
    match how:
        case "flip":
            flip(victim, len(victim.read_bytes()) // 2)
        case "cut":
            victim.write_bytes(victim.read_bytes()[:-7])
        case "remove":
            victim.unlink()
        case "empty":
            victim.write_bytes(b"")
    with pytest.raises(PartimentoError, match="CKPT001"):
        checkpoint.load(path)


def test_newest_falls_back_and_says_so(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nothing") is None
    for step in (10, 20, 30):
        save(tmp_path, step)
    notes: list[str] = []
    flip(tmp_path / "step-000000030" / "model.safetensors")
    (tmp_path / "step-000000020" / "state.json").unlink()
    assert checkpoint.newest(tmp_path, notes.append) == tmp_path / "step-000000010"
    assert len(notes) == 2 and "step-000000030" in notes[0] and "sha256" in notes[0]
    flip(tmp_path / "step-000000010" / "model.safetensors")
    with pytest.raises(PartimentoError, match="CKPT002"):
        checkpoint.newest(tmp_path)


def test_steps_sort_as_numbers_and_strangers_are_ignored(tmp_path: Path) -> None:
    for step in (9, 100, 12):
        save(tmp_path, step)
    for name in ("step-000000200.tmp", "damaged-step-000000300", "step-x"):
        (tmp_path / name).mkdir()
    assert [int(path.name[5:]) for path in checkpoint.visible(tmp_path)] == [9, 12, 100]


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step, score in ((1, 9.0), (2, 3.0), (3, None), (4, 5.0), (5, 4.0), (6, None)):
        save(tmp_path, step, score)
    assert checkpoint.best(tmp_path) == tmp_path / "step-000000002"
    removed = checkpoint.prune(tmp_path, keep=2)
    assert [path.name[-1] for path in removed] == ["1", "3", "4"]
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "5", "6"]


def test_an_existing_step_is_never_written_again(tmp_path: Path) -> None:
    path = save(tmp_path, 7, 1.0)
    before = (path / "manifest.json").stat().st_mtime_ns
    assert save(tmp_path, 7, 2.0) == path
    assert (path / "manifest.json").stat().st_mtime_ns == before


def test_set_aside_never_collides(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        names.append(checkpoint.set_aside(save(tmp_path, 7)).name)
    assert names == ["damaged-step-000000007", "damaged-step-000000007-1", "damaged-step-000000007-2"]
    assert checkpoint.visible(tmp_path) == []


@pytest.mark.parametrize("writer", ["tensors", "record"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    old = save(tmp_path, 1)

    def full(*_: Any, **__: Any) -> None:
        if writer == "tensors":
            # What safetensors makes of a full disk.
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        raise OSError(errno.ENOSPC, "No space left on device")

    target = (safetensors.torch, "save_file") if writer == "tensors" else (commit, "record")
    monkeypatch.setattr(*target, full)
    with pytest.raises(PartimentoError, match="SYS002"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == [old.name]
    checkpoint.load(old)


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    assert sorted(manifest["files"]) == sorted(p.name for p in path.iterdir() if p.name != "manifest.json")
    assert all(commit.sha256(path / name) == entry["sha256"] for name, entry in manifest["files"].items())

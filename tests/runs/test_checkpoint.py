"""Checkpoints: whole or not at all, verified when read, readable by stock safetensors."""

from __future__ import annotations

import errno
import json
import os
import subprocess
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


def test_prune_keeps_the_last_good_one_to_roll_back_to(tmp_path: Path) -> None:
    for step, good in ((1, True), (2, True), (3, False), (4, False), (5, False)):
        checkpoint.save(tmp_path, step, {}, {"good": good})
    assert [path.name[-1] for path in checkpoint.prune(tmp_path, keep=2)] == ["1", "3"]


def test_a_file_that_cannot_be_removed_yet_does_not_end_the_training(tmp_path: Path, monkeypatch: Any) -> None:
    """NFS refuses to remove a folder in which somebody has a file open."""
    for step in (1, 2, 3):
        save(tmp_path, step)

    def busy(path: str, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", busy)
        checkpoint.prune(tmp_path, keep=2)
    assert len(list(tmp_path.iterdir())) == 3
    checkpoint.prune(tmp_path, keep=2)
    assert [path.name for path in checkpoint.visible(tmp_path)] == sorted(path.name for path in tmp_path.iterdir())


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


def edit(path: Path, change: Any) -> None:
    """A manifest that lies."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (
            lambda m: m["files"].update({"../step-000000001/model.safetensors": m["files"]["state.json"]}),
            "no checkpoint",
        ),
        (lambda m: m["files"].update({"/etc/passwd": {"bytes": 1, "sha256": "0"}}), "no checkpoint has"),
        (lambda m: m["files"].update({"a/b/c.safetensors": {"bytes": 1, "sha256": "0"}}), "no checkpoint has"),
        (lambda m: m["files"].pop("state.json"), "does not list state.json"),
        (lambda m: m["files"].update({"model.safetensors": 7}), "does not say what model.safetensors is"),
        (lambda m: m["files"]["model.safetensors"].update(bytes=7), "7 were written"),
        (lambda m: m["files"]["model.safetensors"].update(sha256="0" * 64), "sha256"),
        (lambda m: m.update(files=[]), "does not list state.json"),
        (lambda m: m.update(step=3), "that of step 3"),
        (lambda m: m["files"].update({"model/a.safetensors": m["files"]["model.safetensors"]}), "make together"),
    ],
)
def test_a_manifest_that_lies(tmp_path: Path, lie: Any, why: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    edit(path, lie)
    for attempt in (checkpoint.load, checkpoint.verify):
        with pytest.raises(PartimentoError, match=f"(?s)CKPT001.*{why}"):
            attempt(path)
    assert checkpoint.newest(tmp_path) == tmp_path / "step-000000001"


def test_a_file_that_is_no_safetensors_although_its_hash_is_right(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "model.safetensors").write_bytes(b"nothing of the kind")
    right = {"bytes": 19, "sha256": commit.sha256(path / "model.safetensors")}
    edit(path, lambda manifest: manifest["files"].update({"model.safetensors": right}))
    with pytest.raises(PartimentoError, match=r"(?s)CKPT001.*model cannot be read"):
        checkpoint.load(path)


def test_a_machine_that_cannot_read_is_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a good checkpoint would be set aside because the process had too many files open."""
    save(tmp_path, 1)

    def out_of_files(*_: Any) -> None:
        raise PartimentoError("SYS002", "cannot open it")

    monkeypatch.setattr(commit, "sha256", out_of_files)
    with pytest.raises(PartimentoError, match="SYS002"):
        checkpoint.newest(tmp_path)


def test_moments_in_low_precision_are_neither_written_nor_read(tmp_path: Path) -> None:
    good = {"w.step": torch.tensor(3), "w.exp_avg": torch.ones(3)}
    path = checkpoint.save(tmp_path, 1, {"optimizer": good, "model": {"w": torch.ones(3).bfloat16()}}, {})
    assert checkpoint.load(path).parts["model"]["w"].dtype == torch.bfloat16, "weights may be what they are"
    bad = {"optimizer": good | {"w.exp_avg": torch.ones(3).bfloat16()}}
    with pytest.raises(PartimentoError, match=r"(?s)CKPT012.*w\.exp_avg is held in bfloat16"):
        checkpoint.save(tmp_path, 2, bad, {})
    assert checkpoint.visible(tmp_path) == [path]
    safetensors.torch.save_file(bad["optimizer"], path / "optimizer.safetensors")
    file = path / "optimizer.safetensors"
    entry = {"bytes": file.stat().st_size, "sha256": commit.sha256(file)}
    edit(path, lambda manifest: manifest["files"].update({file.name: entry}))
    with pytest.raises(PartimentoError, match="CKPT012"):
        checkpoint.load(path)
    assert checkpoint.load(path, ("model",)).parts.keys() == {"model"}


def figured(folder: Path, step: int, figures: dict[str, Any], score: float | None = None) -> Path:
    return checkpoint.save(folder, step, {"model": {"w": torch.ones(1)}}, {"score": score, "figures": figures})


def test_the_best_by_any_figure(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path, "ce") is None
    one = figured(tmp_path, 1, {"ce": 3.0, "ce_K": [9, 1.0], "by": {"book": {"first": 5.0}}}, score=2.0)
    two = figured(tmp_path, 2, {"ce": 2.0, "ce_K": [8, 2.0], "by": {"book": {"first": 6.0}}}, score=3.0)
    figured(tmp_path, 3, {"ce": None, "ce_K": [True, "x"], "by": 1.0})
    figured(tmp_path, 4, {})
    chosen = {None: one, "ce": two, "ce_K.0": two, "ce_K.1": one, "by.book.first": one}
    assert {metric: checkpoint.best(tmp_path, metric) for metric in chosen} == chosen
    for metric in ("perplexity", "ce_K.7", "ce_K.-1", "by.book", "ce.0", "by.book.first.0"):
        with pytest.raises(PartimentoError, match=r"(?s)CKPT010.*by, ce, ce_K"):
            checkpoint.best(tmp_path, metric)


def test_prune_keeps_the_best_by_the_metric_of_the_run(tmp_path: Path) -> None:
    for step, ce in ((1, 2.0), (2, 1.0), (3, 5.0), (4, 4.0)):
        figured(tmp_path, step, {"ce": ce}, score=float(step))
    removed = checkpoint.prune(tmp_path, 1, "ce")
    assert [path.name[-1] for path in removed] == ["1", "3"]
    figured(tmp_path, 5, {})
    assert checkpoint.prune(tmp_path, 2, "nobody has it") == [tmp_path / "step-000000002"]


def test_a_removal_that_was_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.prune(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name[-1] for path in checkpoint.visible(tmp_path)] == ["2", "3"]
    save(tmp_path, 1)  # and the same step may be written and removed once more
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "3"]


def test_what_a_killed_save_left_is_swept_by_the_next(tmp_path: Path) -> None:
    dead = tmp_path / f"step-000000007.{commit.machine()}-{_gone()}-0123abcd.tmp"
    dead.mkdir()
    assert checkpoint.newest(tmp_path) is None
    save(tmp_path, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000007"]


def _gone() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_contents_are_the_files_of_each_part(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert checkpoint.contents(path) == {
        "model": [path / "model.safetensors"],
        "optimizer": [path / "optimizer.safetensors"],
    }

"""Sharded checkpoints over real processes (gloo): bitwise equal whoever reads them; nothing torn, nothing pickled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from sharding import same, whole_parts

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.training import sharded

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"}


def ranks(action: str, world: int, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    children = [
        subprocess.Popen(
            [sys.executable, str(HERE / "sharding.py"), action, str(rank), str(world), str(folder)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        return [
            subprocess.CompletedProcess(child.args, child.wait(), out)
            for child in children
            for out in [child.communicate(timeout=120)[0]]
        ]
    finally:
        for child in children:
            child.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """step 5 written whole by one process, step 10 sharded by two; steps 20, 30, 35 and 40 were refused or died.

    What two ranks read is asserted in `sharding.write`, by the same processes.
    """
    place = tmp_path_factory.mktemp("checkpoints")
    checkpoint.save(place, 5, whole_parts(1), {"family": "toy"})
    done = ranks("write", 2, place)
    assert [child.returncode for child in done] == [0, 9], "\n".join(child.stdout for child in done)
    return place


def test_two_wrote_and_one_reads_without_a_process_group(folder: Path) -> None:
    found = checkpoint.load(folder / "step-000000010")
    assert same(found.parts, 1) and found.step == 10 and found.state["score"] == 1.5
    assert list(checkpoint.load(folder / "step-000000010", ("guard",)).parts) == ["guard"]
    into = whole_parts(2)
    sharded.load(folder / "step-000000010", into)
    assert same(into, 1)
    assert checkpoint.best(folder) == checkpoint.newest(folder) == folder / "step-000000010"


@pytest.mark.slow
def test_two_wrote_and_four_read(folder: Path) -> None:
    done = ranks("read", 4, folder)
    assert [child.returncode for child in done] == [0] * 4, "\n".join(child.stdout for child in done)


def test_failures_left_nothing(folder: Path) -> None:
    """A disk that was full for one of the ranks, and a rank that died in the middle of writing."""
    left = {path.name for path in folder.iterdir()} - {"meet-write-2", "meet-read-4"}
    assert left == {"step-000000005", "step-000000010"}


def test_every_file_is_safetensors_or_json(folder: Path) -> None:
    path = folder / "step-000000010"
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert (
        files - {"state.json", "manifest.json"}
        == {
            f"{part}/shard-0000{rank}-model-00001-of-00001.safetensors"
            for part in ("model", "optimizer")
            for rank in (1, 2)
        }
        | {f"guard/shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)} & files
    )
    for name in files - {"state.json", "manifest.json"}:
        with safe_open(path / name, framework="pt") as opened:  # a stock reader
            assert opened.keys()
    assert files == {"manifest.json", *json.loads((path / "manifest.json").read_text())["files"]}


def copied(folder: Path, to: Path) -> Path:
    """The sharded checkpoint once more, to be damaged."""
    path = to / "step-000000010"
    for file in (folder / path.name).rglob("*.*"):
        (path / file.relative_to(folder / path.name)).parent.mkdir(parents=True, exist_ok=True)
        (path / file.relative_to(folder / path.name)).write_bytes(file.read_bytes())
    return path


@pytest.mark.parametrize("how", ["flip", "remove", "unlist", "stray"])
def test_a_damaged_share_is_found(folder: Path, tmp_path: Path, how: str) -> None:
    path = copied(folder, tmp_path)
    share = path / "model" / "shard-00002-model-00001-of-00001.safetensors"
    match how:
        case "flip":
            share.write_bytes(share.read_bytes()[:-1] + b"x")
        case "remove":
            share.unlink()
        case "unlist":  # a manifest that lies: half of each tensor would be whatever was in memory
            manifest = json.loads((path / "manifest.json").read_text())
            del manifest["files"][share.relative_to(path).as_posix()]
            (path / "manifest.json").write_text(json.dumps(manifest))
        case "stray":  # no part of the checkpoint, so never read
            share.with_name("shard-00003-model-00001-of-00001.safetensors").write_bytes(share.read_bytes())
    if how == "stray":
        assert same(checkpoint.load(path).parts, 1)
        return
    for attempt in (lambda: checkpoint.load(path), lambda: sharded.load(path, whole_parts(2))):
        with pytest.raises(PartimentoError, match="CKPT001"):
            attempt()
    assert (checkpoint.newest(tmp_path) if how == "unlist" else None) in (None, path)


def test_what_does_not_fit_is_refused_with_nothing_changed(folder: Path) -> None:
    path = folder / "step-000000010"
    for change, why in (
        ({"0.weight": torch.zeros(7, 6)}, "there and"),
        ({"0.weight": torch.zeros(7, 5, dtype=torch.float64)}, "float64 here"),
        ({"more": torch.zeros(1)}, "more of model is only on one side"),
    ):
        into = whole_parts(2)
        into["model"] |= change
        with pytest.raises(PartimentoError, match=f"(?s)TRAIN003.*{why}"):
            sharded.load(path, into)
        del into["guard"]
        assert all(torch.equal(into["model"][n], t) for n, t in whole_parts(2)["model"].items() if n not in change)


def test_a_damaged_newest_one_falls_back(folder: Path, tmp_path: Path) -> None:
    path = copied(folder, tmp_path)
    checkpoint.save(tmp_path, 5, whole_parts(1), {})
    assert checkpoint.newest(tmp_path) == path
    (path / "guard" / next((path / "guard").iterdir()).name).write_bytes(b"")
    notes: list[str] = []
    assert checkpoint.newest(tmp_path, notes.append) == tmp_path / "step-000000005"
    assert "guard/shard" in notes[0]
    assert checkpoint.prune(tmp_path, 1) == [tmp_path / "step-000000005"] and not list(tmp_path.glob("*.tmp"))

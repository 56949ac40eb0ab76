"""The whole training by two ranks: what one process trains, saved on two, resumed on one, and back."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranked import STEPS, StopAt, config
from test_codes import write_pack

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.events import curve, read_events
from partimento.training import launch
from partimento.training.engine import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one and of two ranks, all from the same pack and seed."""
    folder = tmp_path_factory.mktemp("ranks")
    pack = write_pack(folder / "pack")
    torch.set_num_threads(1)

    def one(run: str, stop: int | None = None, **keys: str) -> None:
        train(config(pack, **keys), runs=folder, run=run, progress=StopAt(stop, signal.SIGUSR2))

    one("alone")
    one("alone-muon", name="muon")
    of_two = [{"run": "ddp"}, {"run": "fsdp", "parallel": "fsdp"}, {"run": "muon", "parallel": "fsdp", "name": "muon"}]
    of_two.append({"run": "half", "parallel": "fsdp", "precision": "bf16"})
    with pytest.raises(PartimentoError, match="SYS003") as caught:
        two(folder, [*of_two, {"run": "moving", "stop": 13, "parallel": "fsdp"}])
    assert caught.value.next is not None and "--run moving" in caught.value.next
    with pytest.raises(PartimentoError, match="SYS003"):
        one("moving", 29)
    two(folder, [{"run": "moving"}])
    return folder


def two(folder: Path, wanted: list[dict[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "COMMAND", (sys.executable, str(Path(__file__).with_name("ranked.py"))))
        assert launch.spawn(2, [str(folder), str(folder / "pack"), json.dumps(wanted)]) == 0


def losses(folder: Path, run: str, kind: str = "train", name: str = "loss", **where: Any) -> list[float]:
    found = curve(read_events(folder / run / "events.jsonl"), kind, name, **where)
    if kind == "train":
        assert [step for step, _ in found] == list(range(1, STEPS + 1))
    return [value for _, value in found]


@pytest.mark.parametrize("run", ["ddp", "fsdp", "moving", "muon"])
def test_two_ranks_train_what_one_does(folder: Path, run: str) -> None:
    """Largest difference of a loss that was seen: 3.4e-7, with AdamW and with Muon, replicated and sharded."""
    alone = "alone-muon" if run == "muon" else "alone"
    mine, one = losses(folder, run), losses(folder, alone)
    assert one[-1] < one[0] - 0.3
    assert mine == pytest.approx(one, abs=1e-5)
    norms = losses(folder, run, name="grad_norm"), losses(folder, alone, name="grad_norm")
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    for weights in ("raw", "ema"):
        bits = [losses(folder, which, "valid", "bits_per_second", weights=weights) for which in (run, alone)]
        assert len(bits[0]) == 2 and bits[0] == pytest.approx(bits[1], rel=1e-4)


def test_two_ranks_train_and_judge_in_bf16(folder: Path) -> None:
    """FSDP gathers the blocks in bfloat16 for a validation, too."""
    assert losses(folder, "half") == pytest.approx(losses(folder, "alone"), abs=0.02)
    bits = [losses(folder, which, "valid", "bits_per_second", weights="ema") for which in ("half", "alone")]
    assert len(bits[0]) == 2 and bits[0] == pytest.approx(bits[1], rel=0.01)


@pytest.mark.parametrize("run", ["ddp", "fsdp", "moving"])
def test_their_checkpoints_hold_the_same_whole_tensors(folder: Path, run: str) -> None:
    mine, one = (
        checkpoint.load(folder / which / "checkpoints" / checkpoint.step_name(STEPS)) for which in (run, "alone")
    )
    assert mine.parts.keys() == one.parts.keys()
    for part in ("model", "ema", "optimizer"):
        assert mine.parts[part].keys() == one.parts[part].keys()
        for name, tensor in one.parts[part].items():
            assert torch.allclose(mine.parts[part][name], tensor, atol=5e-4), name


def test_a_run_that_moved_says_so(folder: Path) -> None:
    events = read_events(folder / "moving" / "events.jsonl")
    resumes = [(event["step"], event["world"], event["parallel"]) for event in events if event["kind"] == "resume"]
    assert resumes == [(13, 1, None), (29, 2, "ddp")]
    assert [event["world"] for event in events if event["kind"] == "start"] == [2]
    assert sum(event["kind"] == "note" and "world is 1" in event["text"] for event in events) == 1

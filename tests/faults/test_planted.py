"""Faults that cost the authors of earlier systems weeks, planted in a real training of codes: each is named and the run
survives it, or it is refused. (Those that are there before the first step are in tests/lab/test_checks.py.)"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from partimento import commit
from partimento.config import Config, parse
from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.events import Event, curve, read_events
from partimento.runs.run import Run
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training import engine
from partimento.training.tasks.codes import CodesTask

SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(20), (16, 16, 16))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_pack(folder: Path, seed: int = 0) -> Path:
    """Cycles of three speeds, the last one noisy: learned within a hundred steps."""
    rng, time_T = np.random.default_rng(seed), np.arange(200)
    writer = PackWriter(folder, SPEC)
    for clip in range(12):
        start = int(rng.integers(16))
        books = [(start + speed * time_T) % 16 for speed in (1, 2, 3)]
        books[2] = (books[2] + rng.integers(0, 2, 200)) % 16
        writer.add(np.stack(books, 1), clip=f"c{clip}", tags=["odd" if clip % 2 else "even"])
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("packs") / "pack")


def config(pack: Path, **train: Any) -> Config:
    return parse(
        {
            "family": "rvq",
            "data": {"pack": str(pack), "window": 32},
            "model": {"width": 32, "layers": 2, "heads": 2},
            "optim": {"lr": 3e-3, "batch": 8, "warmup": 20},
            "guard": {"window": 32},
            "train": {
                "steps": 150, "device": "cpu", "log_every": 5, "save_every": 10, "valid_every": 1000, "valid_items": 8,
            } | train,
            "demo": {"temperatures": []},
        }
    )  # fmt: skip


def trained(config: Config, tmp_path: Path, task: type = CodesTask) -> tuple[Run, list[Event]]:
    run = engine.train(config, runs=tmp_path, run="r", make_task=task)
    return run, read_events(run.events_path)


def weights(run: Run, step: int) -> dict[str, torch.Tensor]:
    parts = checkpoint.load(run.checkpoints_path / f"step-{step:09d}").parts
    return {f"{p}/{n}": tensor for p in ("model", "ema", "optimizer") for n, tensor in parts[p].items()}


def spoiling(step: int, factor: float) -> type[CodesTask]:
    """The loss of one step is multiplied, and its gradient with it."""

    class Spoiling(CodesTask):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.factor = 1.0
            self.objective.register_forward_hook(lambda module, _, out: (out[0] * self.factor, out[1]))

        def batch(self, now: int, micro: int, attempt: int = 0) -> Any:
            return now, super().batch(now, micro, attempt)

        def count(self, batch: Any) -> float:
            return super().count(batch[1] if isinstance(batch, tuple) else batch)

        def inputs(self, batch: Any) -> Any:
            now, batch = batch if isinstance(batch, tuple) else (-1, batch)
            self.factor = factor if now == step else 1.0
            return super().inputs(batch)

    return Spoiling


@pytest.mark.parametrize(
    ("factor", "why"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (1000.0, "limit")]
)
def test_a_nan_batch_and_a_gradient_a_thousand_times_too_large(
    pack: Path, tmp_path: Path, factor: float, why: str
) -> None:
    run, events = trained(config(pack, steps=60, save_every=1, keep=100), tmp_path, spoiling(40, factor))
    before, after = weights(run, 40), weights(run, 41)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(after[name], tensor) for name, tensor in weights(run, 42).items())
    (note,) = [event["text"] for event in events if event["kind"] == "note"]
    assert "1 steps were skipped" in note and why in note
    assert curve(events, "train", "skipped")[-1] == (60, 1) and events[-1]["reason"] == "finished"


def test_a_rate_a_hundred_times_too_high(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From step 100 on, until the run has gone back: the loss leaves its level, which is told, and comes back."""
    step_with = engine.train_step

    def hot(state: Any, batches: Any, step: int, rate: float) -> None:
        spoilt = step >= 100 and not state.counters.rollbacks
        step_with(state, batches, step, rate * (1000 if spoilt else 1))

    monkeypatch.setattr(engine, "train_step", hot)
    _, events = trained(config(pack, steps=200), tmp_path)
    (back,) = [event for event in events if event["kind"] == "rollback"]
    assert back["rate_factor"] == 0.5 and 80 <= back["step"] <= 110 < back["at"] <= 150
    assert "level" in back["reason"] or "skipped" in back["reason"]
    losses = dict(curve(events, "train", "loss"))
    assert losses[200] <= losses[back["step"]] * 1.05


def bfloat16(path: Path, part: str) -> None:
    """Store a part of a checkpoint in half precision, with a manifest that agrees."""
    file = path / f"{part}.safetensors"
    save_file({n: t.bfloat16() if t.is_floating_point() else t for n, t in load_file(file).items()}, file)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": commit.sha256(file)}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("part", ["optimizer", "model", "ema"])
def test_moments_and_weights_in_half_precision_are_refused(pack: Path, tmp_path: Path, part: str) -> None:
    run, _ = trained(config(pack, steps=10), tmp_path)
    bfloat16(checkpoint.visible(run.checkpoints_path)[-1], part)
    with pytest.raises(PartimentoError) as caught:
        trained(config(pack, steps=10), tmp_path)
    assert caught.value.code in ("TRAIN003", "TRAIN045", "CKPT001", "CKPT012")
    assert "bfloat16" in str(caught.value)


def test_data_of_another_pack_is_refused(pack: Path, tmp_path: Path) -> None:
    trained(config(pack, steps=10), tmp_path)
    with pytest.raises(PartimentoError, match="TRAIN002") as caught:
        trained(config(write_pack(tmp_path / "other", seed=1), steps=10), tmp_path)
    assert "fingerprint" in caught.value.message


def test_a_damaged_newest_checkpoint_falls_back_and_ends_the_same(pack: Path, tmp_path: Path) -> None:
    whole, _ = trained(config(pack, steps=30), tmp_path / "a")
    run, _ = trained(config(pack, steps=30), tmp_path / "b")
    newest = checkpoint.visible(run.checkpoints_path)[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "model.safetensors").write_bytes(bytes(content))
    _, events = trained(config(pack, steps=30), tmp_path / "b")
    assert [event["step"] for event in events if event["kind"] == "resume"] == [20]
    one, two = weights(whole, 30), weights(run, 30)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [path.name for path in run.checkpoints_path.glob("damaged-*")] == ["damaged-step-000000030"]

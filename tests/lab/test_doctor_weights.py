"""The examiners of weights on checkpoints of small real trainings: planted faults are named, healthy ones silent."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from partimento import commit
from partimento.lab.doctor import weights
from partimento.lab.doctor.finding import LIKELY, Examined, Finding
from partimento.lab.doctor.patient import Patient, Tensors
from partimento.models.decoder import CodeDecoder
from partimento.runs import checkpoint
from partimento.runs.run import Run
from partimento.tokens.writer import PackWriter
from partimento.training import engine
from partimento.training.ema import Ema
from partimento.training.optim import Optimizers

sys.path.append(str(Path(__file__).parents[1] / "training"))
import codes_toy
import mot_toy
from codes_toy import SPEC, config

STEPS = 24
Change = Callable[[dict[str, Tensor]], None]


def write_pack(folder: Path, used: int = 16) -> Path:
    """Noisy walks over the first `used` of 16 codes."""
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, SPEC)
    for clip in range(8):
        walk = (np.arange(200) * (1 + clip % 2) + clip) % used
        codes_TK = np.stack([walk, (walk + 3) % used, (walk * 5) % used], axis=1)
        noise = rng.random(codes_TK.shape) < 0.1
        codes_TK[noise] = rng.integers(0, used, int(noise.sum()))
        writer.add(codes_TK, clip=f"clip{clip}", tags=[])
    writer.finish()
    return folder


def train(folder: Path, used: int = 16, steps: int = STEPS, **optim: Any) -> Run:
    pack = folder / f"pack{used}"
    if not pack.exists():
        write_pack(pack, used)
    plan = {"steps": steps, "save_every": steps // 3, "valid_every": steps, "valid_items": 2, "log_every": steps}
    settings = {"lr": 3e-3, **optim}
    asked = config(pack, optim=settings, train=plan, demo={"temperatures": []}, model={"dropout": 0.0})
    return engine.train(asked, runs=folder / "runs")


@pytest.fixture(scope="module", params=["adamw", "muon"])
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp(request.param), name=request.param)


@pytest.fixture
def run(healthy: Run, tmp_path: Path) -> Run:
    """A copy to be spoilt."""
    shutil.copytree(healthy.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def edit(run: Run, part: str, change: Change, which: int = -1) -> Path:
    """Change a part of a checkpoint, and correct its hash."""
    path = checkpoint.visible(run.checkpoints_path)[which]
    file = path / f"{part}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": commit.sha256(file)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    checkpoint.verify(path)
    return path


def examined(path: Path) -> Examined:
    return weights.examine(Patient.open(path))


def first(path: Path) -> Finding:
    """The surest finding."""
    found = sorted(examined(path).findings, key=lambda one: -one.confidence)
    assert found, "nothing was found"
    return found[0]


def names(found: Examined) -> set[str]:
    return {one.disease for one in found.findings if one.confidence >= LIKELY}


def test_healthy_runs_are_silent_and_what_is_well_is_said(healthy: Run) -> None:
    found = examined(healthy.path)
    assert not names(found)
    assert not found.findings
    told = " ".join(found.fine)
    for word in ("hashes", "finite", "gradients", "size of the steps", "single gradient", "drawn", "ranks", "averaged"):
        assert word in told, word
    assert "Every code of the 3 books" in told and "No two codes" in told
    assert f"has made {STEPS} steps" in told and "the second goes on" in told
    assert not found.missing


def test_a_checkpoint_alone_and_two_of_them(healthy: Run) -> None:
    paths = checkpoint.visible(healthy.checkpoints_path)
    alone = examined(paths[-1])
    assert not alone.findings and any(line.startswith("Turns") for line in alone.missing)
    pair = Patient.open(paths[-1])
    pair.other = Patient.open(paths[0])
    assert not weights.examine(pair).findings


def test_no_model_is_built_and_nothing_is_changed(healthy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a module was made")

    before = {file: commit.sha256(file) for file in healthy.path.rglob("*") if file.is_file()}
    monkeypatch.setattr(nn.Module, "__init__", refuse)
    examined(healthy.path)
    assert before == {file: commit.sha256(file) for file in healthy.path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_numbers_that_are_none(run: Run, part: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if "blocks.1.feedforward.up.weight" in name)
        tensors[name][0, 3] = float("nan")
        tensors[name][1, 1] = float("inf")

    edit(run, part, change)
    found = first(run.path)
    assert found.disease == "non_finite" and found.confidence == 1.0
    assert "2 numbers" in found.evidence[0].text and part in found.evidence[0].text
    assert found.where == "blocks.1.feedforward.up.weight"
    assert names(examined(run.path)) == {"non_finite"}


def test_a_flipped_byte_and_a_file_that_is_gone(run: Run) -> None:
    path = checkpoint.visible(run.checkpoints_path)[-1]
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x10
    file.write_bytes(content)
    found = first(run.path)
    assert found.disease == "torn_checkpoint" and found.where == path.name
    assert "model.safetensors does not match" in found.evidence[0].text
    (path / "optimizer.safetensors").unlink()
    assert first(run.path).disease == "torn_checkpoint"
    shutil.rmtree(path / "state.json", ignore_errors=True)
    (path / "state.json").unlink()
    found = first(run.path)
    assert found.disease == "torn_checkpoint" and "state.json" in found.evidence[0].text


def test_a_header_of_nonsense_is_told_and_does_not_end_the_examination(run: Run) -> None:
    path = checkpoint.visible(run.checkpoints_path)[-1]
    (path / "model.safetensors").write_bytes(b"\xff" * 4096)
    found = examined(run.path)
    assert names(found) == {"torn_checkpoint"}
    assert any("cannot be read" in line for line in found.missing)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_rate_a_hundred_times_too_high(tmp_path: Path, name: str) -> None:
    found = first(train(tmp_path, name=name, lr=0.3, muon_lr=2.0).path)
    assert found.disease == "rate_too_high" and found.where == "optim.lr"
    assert found.evidence[0].chart is not None and found.evidence[0].chart.startswith("<svg")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_gradient_a_thousand_times_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """At the step before the last one, past a clip that does not hold it."""
    count = 0
    plain = engine.clip_global_

    def clip(gradients: list[Tensor], scale: Tensor, norm: Tensor, limit: float) -> None:
        nonlocal count
        count += 1
        plain(gradients, scale, norm, 1e9)
        if count == STEPS - 1:
            torch._foreach_mul_(gradients, 1000.0)

    monkeypatch.setattr(engine, "clip_global_", clip)
    found = {one.disease: one for one in examined(train(tmp_path, name=name).path).findings}
    assert found["gradient_spike"].confidence > 0.8
    assert found["gradient_spike"].confidence == max(one.confidence for one in found.values())
    if name == "adamw":
        assert "of 1 step before the last" in found["gradient_spike"].evidence[0].text


@pytest.mark.parametrize(("name", "how"), [("adamw", "none"), ("muon", "zero")])
def test_a_block_without_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str) -> None:
    plain = Optimizers.step

    def step(self: Optimizers, bad: Tensor, rate: float) -> None:
        for one in self.claims:
            if one.name.startswith("blocks.1."):
                one.parameter.grad = None if how == "none" else torch.zeros_like(one.parameter)
        plain(self, bad, rate)

    monkeypatch.setattr(Optimizers, "step", step)
    found = first(train(tmp_path, name=name, steps=12).path)
    assert found.disease == "layer_without_gradient" and found.where == "blocks.1"
    assert "8 of 19" in found.evidence[0].text


def test_codes_that_no_clip_has_are_no_disease_and_without_the_pack_nobody_knows(tmp_path: Path) -> None:
    """(Codes that the pack has and training never showed are planted in tests/faults/ward/weights.py.)"""
    run = train(tmp_path, used=12)
    found = examined(run.path)
    assert "dead_codes" not in {one.disease for one in found.findings}
    (told,) = [line for line in found.fine if "4 of 16 codes" in line]
    assert "12, 13, 14, 15" in told and "in no training clip, nor any held-out one" in told
    shutil.move(tmp_path / "pack12", tmp_path / "gone")
    (one,) = [one for one in examined(run.path).findings if one.disease == "dead_codes"]
    assert one.where == "embedding, books 1, 2, 3" and 0.2 < one.confidence < LIKELY
    assert "4 of 16 codes" in one.evidence[0].text and "is not known" in one.evidence[1].text


def test_rows_that_are_copies(run: Run) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["embedding"][19 + 3] = tensors["embedding"][19 + 5]
        tensors["embedding"][19 + 9] = tensors["embedding"][19 + 5]

    edit(run, "model", change)
    found = first(run.path)
    assert found.disease == "duplicate_rows" and found.where == "embedding, book 2"
    assert "codes 3, 5, 9 have" in found.evidence[0].text


def test_a_row_that_exploded(run: Run) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["head.weight"][17 * 2 + 4] *= 500

    edit(run, "model", change)
    assert first(run.path).disease == "exploding_rows" and first(run.path).where == "head.weight, book 3, code 4"


def test_a_matrix_of_rank_two(run: Run) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = "blocks.0.feedforward.down.weight"
        u, s, v = torch.linalg.svd(tensors[name], full_matrices=False)
        tensors[name] = (u[:, :2] * s[:2]) @ v[:2]

    edit(run, "model", change)
    found = first(run.path)
    assert found.disease == "rank_collapse" and found.where == "blocks.0.feedforward.down.weight"


@pytest.mark.parametrize("factor", [20.0, 0.05])
def test_weights_that_were_drawn_at_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    plain = CodeDecoder.initialise

    def initialise(self: CodeDecoder) -> None:
        plain(self)
        with torch.no_grad():
            for weight in self.parameters():
                if weight.ndim > 1:
                    weight.mul_(factor)

    monkeypatch.setattr(CodeDecoder, "initialise", initialise)
    found = first(train(tmp_path, steps=6, warmup=6).path)
    assert found.disease == "wrong_init" and found.confidence > 0.6


def test_an_average_that_is_never_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ema, "update", lambda self, bad: self.updates.add_(1))
    path = train(tmp_path).path
    assert first(path).disease == "ema_broken" and first(path).confidence > 0.9
    newest = checkpoint.visible(path / "checkpoints")[-1]
    assert first(newest).disease == "ema_broken"  # alone: by the gains that still are 1 in the average


def test_an_average_that_is_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(self: Ema, bad: Tensor) -> None:
        for name, weight in self.module.named_parameters():
            self.weights[name].lerp_(weight.detach(), 1e-5)
        self.updates.add_(1)

    monkeypatch.setattr(Ema, "update", update)
    found = first(train(tmp_path).path)
    assert found.disease == "ema_broken" and "stood still" in found.evidence[0].text


def test_an_average_that_is_a_plain_copy(run: Run) -> None:
    path = checkpoint.visible(run.checkpoints_path)[-1]
    raw = load_file(path / "model.safetensors")
    edit(run, "ema", lambda tensors: tensors.update(raw))
    assert first(run.path).disease == "ema_broken" and "bit for bit" in first(run.path).evidence[0].text


def test_weights_that_go_to_and_fro(run: Run) -> None:
    oldest = load_file(checkpoint.visible(run.checkpoints_path)[0] / "model.safetensors")
    middle = load_file(checkpoint.visible(run.checkpoints_path)[1] / "model.safetensors")
    edit(run, "model", lambda t: t.update({n: oldest[n] + 0.2 * (middle[n] - oldest[n]) for n in t}))
    found = first(run.path)
    assert found.disease == "oscillation" and found.confidence > 0.8


def test_an_optimizer_of_another_moment(run: Run) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if name.endswith(".step"):
                tensors[name] -= 5

    edit(run, "optimizer", change)
    found = next(one for one in examined(run.path).findings if one.confidence >= LIKELY)
    assert found.disease == "schedule_mismatch" and f"made {STEPS - 5} steps" in found.evidence[0].text


def test_each_tensor_is_read_once(healthy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, str, str], int] = {}
    plain = Tensors.__getitem__

    def read(self: Tensors, name: str) -> Tensor:
        key = (self._where.path.name, self._part, name)
        seen[key] = seen.get(key, 0) + 1
        return plain(self, name)

    monkeypatch.setattr(Tensors, "__getitem__", read)
    examined(healthy.path)
    newest = checkpoint.visible(healthy.checkpoints_path)[-1]
    stored = {(newest.name, part, name) for part in ("model", "ema", "optimizer") for name in _names(newest, part)}
    assert stored <= seen.keys()
    assert {count for key, count in seen.items() if key[1] != "guard"} == {1}


def _names(path: Path, part: str) -> set[str]:
    return set(load_file(path / f"{part}.safetensors"))


def test_adapters_beside_frozen_weights_are_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: codes_toy.ToyCodec())
    llama, pack = tmp_path / "llama", mot_toy.write_pack(tmp_path / "pack")
    mot_toy.write_llama(llama)
    plan = {"steps": 24, "save_every": 8, "valid_every": 24, "valid_items": 2, "log_every": 24}
    asked = mot_toy.config(pack, llama, train=plan, demo={"temperatures": []}, model={"experts": "lora"})
    found = examined(engine.train(asked, runs=tmp_path / "runs").path)
    assert not names(found)
    assert any("trained tensors has had gradients" in line for line in found.fine)

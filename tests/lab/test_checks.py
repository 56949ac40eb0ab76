"""The cheap checks of preflight: a healthy configuration passes them all, and every planted fault is named by the check
that is there for it, and by no other."""

from __future__ import annotations

import lab_planted
import pytest
import torch
from lab_planted import OF_MOT, OF_SOUND, config, make_pack

from partimento.cli.main import main
from partimento.errors import PartimentoError
from partimento.lab.preflight import CHECKS, model, preflight
from partimento.models.decoder import CodeDecoder
from partimento.runs.run import Run


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("packs") / "pack")


def called(checks, *states):
    return {check.name for check in checks if check.status in states}


def one(checks, name):
    return next(check for check in checks if check.name == name)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"model__tags": False, "model__qk_norm": False, "model__norm": "layer", "model__activation": "gelu"},
        {"model__pattern": "flat", "data__window": 90, "train__precision": "bf16"},
        {"optim__name": "muon", "model__kv_heads": 1, "model__positions": "sinusoidal", "model__dropout": 0.1},
        {"train__stages": [{"start": 100, "window": 64, "batch": 4}], "loss__codebook_weights": "ramp"},
    ],
)
def test_a_healthy_configuration_passes(pack, tmp_path, overrides):
    found = preflight(config(pack, **overrides), runs=tmp_path / "runs")
    assert [check.name for check in found] == list(CHECKS)
    assert not called(found, "failed", "warn"), [check for check in found if check.status in ("failed", "warn")]
    told = {"text", "frozen"} | (
        {"words", "dropping", "guidance", "null condition"} if "model__tags" in overrides else set()
    )
    assert called(found, "skipped") == {"resume", "demos"} | OF_SOUND | OF_MOT | told
    assert not list((tmp_path / "runs").iterdir())  # nothing is left behind


def test_it_changes_nothing_of_the_training(pack, tmp_path):
    before = torch.get_rng_state()
    first, second = (preflight(config(pack), runs=tmp_path) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", lab_planted.BOTH)
def test_a_fault_of_the_program_is_named(pack, tmp_path, monkeypatch, name):
    expected = lab_planted.BOTH[name](monkeypatch)
    found = preflight(config(pack), runs=tmp_path)
    assert called(found, "failed", "warn") == expected.keys(), [c for c in found if c.status in ("failed", "warn")]
    for check, word in expected.items():
        assert word in one(found, check).found and one(found, check).remedy


@pytest.mark.parametrize("name", lab_planted.WITHOUT_QK_NORM)
def test_a_model_that_does_not_mix_over_time_is_named(pack, tmp_path, monkeypatch, name):
    expected = lab_planted.WITHOUT_QK_NORM[name](monkeypatch)
    found = preflight(config(pack, model__qk_norm=False), runs=tmp_path)
    assert called(found, "failed", "warn") == expected.keys()


@pytest.mark.parametrize(
    ("overrides", "check", "status"),
    [
        ({"model__attention_scale": 1.0}, "attention", "failed"),
        ({"optim__lr": 0.3}, "rate", "failed"),
        ({"optim__name": "muon", "optim__muon_lr": 2.0}, "rate", "failed"),
        ({"optim__lr": 1e-7}, "one batch", "failed"),
        ({"data__null_share": 0.0}, "guidance", "warn"),
        ({"model__feedforward": 16}, "shape", "warn"),
        ({"train__cuda_graphs": True}, "device", "failed"),
        ({"data__window": 150, "model__pattern": [0, 0, 170]}, "data", "warn"),
    ],
)
def test_a_fault_of_the_configuration_is_named(pack, tmp_path, overrides, check, status):
    found = preflight(config(pack, **overrides), runs=tmp_path)
    assert called(found, "failed", "warn") == {check}, [c for c in found if c.status in ("failed", "warn")]
    assert one(found, check).status == status and one(found, check).remedy


def test_a_loud_head_is_named(pack, tmp_path, monkeypatch):
    initialise = CodeDecoder.initialise

    def loud(self):
        initialise(self)
        with torch.no_grad():
            self.head.weight.mul_(100)

    monkeypatch.setattr(CodeDecoder, "initialise", loud)
    found = preflight(config(pack), runs=tmp_path)
    assert called(found, "failed") == {"init", "initial loss"}


def test_a_model_that_is_small_for_its_data_is_named(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "UNDERSIZED", 0.01)
    found = preflight(config(pack), runs=tmp_path)
    assert called(found, "failed", "warn") == {"capacity"} and "larger" in one(found, "capacity").remedy


def test_a_layer_that_is_frozen_rightly_passes(pack, tmp_path, monkeypatch):
    build = CodeDecoder.__init__

    def with_frozen(self, shape):
        build(self, shape)
        self.blocks[0].feedforward.requires_grad_(False)

    monkeypatch.setattr(CodeDecoder, "__init__", with_frozen)
    found = preflight(config(pack), runs=tmp_path)
    assert not called(found, "failed", "warn")
    assert "2 frozen" in one(found, "gradients").found
    assert "2 frozen parameters are unchanged" in one(found, "frozen").found


def test_guidance_that_is_asked_for_and_not_learned(pack, tmp_path):
    found = preflight(config(pack, data__null_share=0.0, demo__temperatures=[0.0]), runs=tmp_path)
    assert one(found, "guidance").status == "failed" and one(found, "guidance").code == "SAMPLE005"
    assert one(found, "demos").status == "failed"  # and the codec "fake" is not there


def test_data_of_another_pack_on_a_resume(pack, tmp_path):
    identity = {"fingerprint": "f" * 64, "codec": "fake", "codec_weights": "0" * 64}
    run = Run.create(tmp_path, config(pack), extra={"identity": identity})
    found = preflight(config(pack), runs=tmp_path, run=run.id)
    assert called(found, "failed") == {"resume"}
    assert one(found, "resume").code == "TRAIN002"
    other = preflight(config(pack, optim__lr=1e-3), runs=tmp_path, run=run.id)
    assert one(other, "resume").code == "TRAIN001"
    with pytest.raises(PartimentoError) as err:
        preflight(config(pack), runs=tmp_path, run="none")
    assert err.value.code == "RUN001"


def test_a_window_longer_than_every_clip(pack, tmp_path):
    found = preflight(config(pack, data__window=500), runs=tmp_path)
    assert one(found, "data").status == "failed" and one(found, "data").code == "PACK007"
    assert "data.window" in one(found, "data").remedy
    assert one(found, "gradients").status == "skipped"  # not tried, and it says so


def test_a_full_disk_fails(pack, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("partimento.lab.preflight.machine.shutil.disk_usage", lambda path: usage)
    assert called(preflight(config(pack), runs=tmp_path), "failed") == {"disk"}


def test_a_cut_shard_fails(tmp_path):
    pack = make_pack(tmp_path / "cut")
    shard = next((pack / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-8])
    found = one(preflight(config(pack), runs=tmp_path / "runs"), "pack")
    assert found.status == "failed" and found.code == "PACK004"


def test_copies_across_the_split_are_named(tmp_path):
    found = preflight(config(make_pack(tmp_path / "copies", copies=True)), runs=tmp_path / "runs")
    assert called(found, "warn") == {"splits"} and not called(found, "failed")


def test_silence_is_named(tmp_path):
    found = preflight(config(make_pack(tmp_path / "still", still=True)), runs=tmp_path / "runs")
    assert "silence" in called(found, "warn") and "74 %" in one(found, "silence").found


def test_warnings_do_not_fail_the_command(pack, tmp_path, capsys):
    text = f'family = "rvq"\n[data]\npack = "{pack}"\nwindow = 32\nnull_share = 0.0\n[model]\nwidth = 32\nlayers = 1\n'
    (tmp_path / "a.toml").write_text(f"{text}heads = 2\n[optim]\nlr = 3e-3\n[demo]\ntemperatures = []\n")
    arguments = ["preflight", str(tmp_path / "a.toml"), "train.device=cpu", "--runs", str(tmp_path / "runs"), "-q"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    assert "warn    guidance" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([*arguments, "optim.lr=0.3"])
    assert end.value.code != 0
    assert "FAILED  rate" in capsys.readouterr().out

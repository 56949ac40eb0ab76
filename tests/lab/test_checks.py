"""The cheap checks of preflight: a healthy configuration passes them all, and every planted fault is named by the check
that is there for it, and by no other."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from partimento.cli.main import main
from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.lab.preflight import CHECKS, preflight
from partimento.models.attention import SelfAttention
from partimento.models.conditions import TagCondition
from partimento.models.decoder import CodeDecoder
from partimento.models.layers import FeedForward
from partimento.runs.run import Run
from partimento.tokens.draw import Draw
from partimento.tokens.places import Places
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training import optim
from partimento.training.tasks import codes as codes_task

SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(20), (12, 12, 12))


def make_pack(path, *, still=False, copies=False, seed=3):
    rng = np.random.default_rng(seed)
    writer = PackWriter(path, SPEC)
    shared = rng.integers(0, 12, (150, 3))
    for number in range(8):
        codes = rng.integers(0, 12, (200 + number, 3))
        if copies:
            codes[:150] = shared
        if still:
            codes[:150] = 0
        writer.add(codes, clip=f"c{number}", tags=["piano"] if number % 2 else ["drums", "fast"])
    writer.finish()
    return path


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("packs") / "pack")


def config(pack, **overrides):
    """section__key=value over a tiny model."""
    tree = {
        "family": "rvq",
        "data": {"pack": str(pack), "window": 32},
        "model": {"width": 32, "layers": 2, "heads": 2},
        "optim": {"lr": 3e-3},
        "train": {"device": "cpu"},
        "demo": {"temperatures": []},
    }
    for name, value in overrides.items():
        section, key = name.split("__")
        tree.setdefault(section, {})[key] = value
    return parse(tree)


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
    assert called(found, "skipped") <= {"resume", "demos", "guidance", "null condition"}
    assert not list((tmp_path / "runs").iterdir())  # nothing is left behind


def test_it_changes_nothing_of_the_training(pack, tmp_path):
    before = torch.get_rng_state()
    first, second = (preflight(config(pack), runs=tmp_path) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())


def planted(monkeypatch, name):
    """Plants a fault in the program and returns the check that names it, and a word of what it says."""
    if name == "every crop at frame 0":
        define = Places.define
        at_start = lambda self, index, attempt=0: (define(self, index, attempt)[0], np.zeros_like(index))  # noqa: E731
        monkeypatch.setattr(Places, "define", at_start)
        return "crops", "one place"
    if name == "crops of another place":
        grids = Draw._grids
        monkeypatch.setattr(Draw, "_grids", lambda self, clip, start: grids(self, clip, np.maximum(0, start - 1)))
        return "crops", "other codes"
    if name == "epochs alike":
        define = Places.define
        monkeypatch.setattr(Places, "define", lambda self, index, attempt=0: define(self, index % self.slots, attempt))
        return "crops", "two epochs"
    if name == "wrong fan-in":
        initialise = CodeDecoder.initialise

        def xavier(self):
            initialise(self)
            for block in self.blocks:  # [D, H, E] taken for a convolution: fans D E and H E in place of H E and D
                rows, width = block.attention.qkv.weight.shape
                kernel = torch.empty(width, 3, rows // 3)
                nn.init.xavier_uniform_(kernel)
                with torch.no_grad():
                    block.attention.qkv.weight.copy_(kernel.flatten(1).T)

        monkeypatch.setattr(CodeDecoder, "initialise", xavier)
        return "init", "blocks.attention.qkv.weight"
    if name == "unused parameter":
        build = CodeDecoder.__init__

        def with_spare(self, shape):
            build(self, shape)
            self.spare = nn.Parameter(torch.randn(64, 64) * 0.02)

        monkeypatch.setattr(CodeDecoder, "__init__", with_spare)
        return "gradients", "spare"
    if name == "frozen layer left trainable":
        forward = FeedForward.forward

        def frozen(self, x_BSD):
            with torch.no_grad():
                return forward(self, x_BSD)

        monkeypatch.setattr(FeedForward, "forward", frozen)
        return "gradients", "blocks.0.feedforward.down.weight"
    if name == "bf16 moment":
        slots = optim._adamw_slots
        monkeypatch.setattr(
            optim, "_adamw_slots", lambda parameter: slots(parameter) | {"exp_avg_sq": parameter.detach().bfloat16()}
        )
        return "types", "moment"
    if name == "another null in training":
        forward = TagCondition.forward
        shift = lambda self, tags, keep: forward(self, tags, keep) + 0.1 * ~keep[:, None]  # noqa: E731
        monkeypatch.setattr(TagCondition, "forward", shift)
        return "null condition", "guidance's unconditional branch"
    if name == "nothing mixes over time":
        monkeypatch.setattr(SelfAttention, "forward", lambda self, x, *_: self.out(self.qkv(x)[..., : x.shape[-1]]))
        return "receptive field", "1"
    if name == "the mask shows the future":
        attend = functional.scaled_dot_product_attention
        monkeypatch.setattr(
            functional,
            "scaled_dot_product_attention",
            lambda *args, **rest: attend(*args, **{**rest, "is_causal": False}),
        )
        return "causality", "earlier logits"
    if name == "narrow heads":
        shape = codes_task.decoder_config
        monkeypatch.setattr(
            codes_task,
            "decoder_config",
            lambda *args, **rest: type(made := shape(*args, **rest)).from_json(made.to_json() | {"head_width": 8}),
        )
        return "shape", "2 heads of 8"
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "every crop at frame 0",
        "crops of another place",
        "epochs alike",
        "wrong fan-in",
        "unused parameter",
        "frozen layer left trainable",
        "bf16 moment",
        "another null in training",
        "the mask shows the future",
        "narrow heads",
    ],
)
def test_a_fault_of_the_program_is_named(pack, tmp_path, monkeypatch, name):
    check, word = planted(monkeypatch, name)
    found = preflight(config(pack), runs=tmp_path)
    assert called(found, "failed", "warn") == {check}, [c for c in found if c.status in ("failed", "warn")]
    assert word in one(found, check).found
    assert one(found, check).remedy


def test_a_model_that_does_not_mix_over_time_is_named(pack, tmp_path, monkeypatch):
    check, _ = planted(monkeypatch, "nothing mixes over time")
    found = preflight(config(pack, model__qk_norm=False), runs=tmp_path)
    assert called(found, "failed", "warn") == {check}


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


def test_a_layer_that_is_frozen_rightly_passes(pack, tmp_path, monkeypatch):
    build = CodeDecoder.__init__

    def with_frozen(self, shape):
        build(self, shape)
        self.blocks[0].feedforward.requires_grad_(False)

    monkeypatch.setattr(CodeDecoder, "__init__", with_frozen)
    found = preflight(config(pack), runs=tmp_path)
    assert not called(found, "failed", "warn")
    assert "2 frozen" in one(found, "gradients").found


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

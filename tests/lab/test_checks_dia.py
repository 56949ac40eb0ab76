"""The cheap checks of preflight for models that read text: a healthy configuration passes them all, and every planted
fault is named by the checks that are there for it, and by no other."""

from __future__ import annotations

import lab_planted
import pytest
from lab_planted import OF_MOT, OF_SOUND, config, make_pack, make_weights, weighted

from partimento.config import DiaConfig
from partimento.lab.preflight import preflight


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("packs") / "pack")


def dia(pack, **overrides) -> DiaConfig:
    return config(pack, "dia", **overrides)


def called(checks, *states):
    return {check.name for check in checks if check.status in states}


def one(checks, name):
    return next(check for check in checks if check.name == name)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"model__tag_tokens": False, "model__qk_norm": False, "model__null": "zeros", "data__tag_dropout": 0.2},
        {"model__pattern": "flat", "data__window": 90, "train__precision": "bf16", "data__text": "tags"},
        {"optim__name": "muon", "model__kv_heads": 1, "model__dropout": 0.1, "model__cross_attention_rope": True},
        {"train__stages": [{"start": 100, "window": 64, "batch": 4}], "data__text": "caption"},
    ],
)
def test_a_healthy_configuration_passes(pack, tmp_path, overrides):
    found = preflight(dia(pack, **overrides), runs=tmp_path / "runs")
    assert not called(found, "failed", "warn"), [check for check in found if check.status in ("failed", "warn")]
    assert called(found, "skipped") == {"resume", "demos", "frozen"} | OF_SOUND | OF_MOT


@pytest.mark.parametrize("name", [*lab_planted.BOTH, *lab_planted.WITH_TEXT])
def test_a_fault_of_the_program_is_named(pack, tmp_path, monkeypatch, name):
    expected = (lab_planted.BOTH | lab_planted.WITH_TEXT)[name](monkeypatch)
    found = preflight(dia(pack), runs=tmp_path)
    assert called(found, "failed", "warn") == expected.keys(), [c for c in found if c.status in ("failed", "warn")]
    for check, word in expected.items():
        assert word in one(found, check).found and one(found, check).remedy


def test_a_model_that_does_not_mix_over_time_is_named(pack, tmp_path, monkeypatch):
    expected = lab_planted.WITHOUT_QK_NORM["a26_nothing_mixes_over_time"](monkeypatch)
    found = preflight(dia(pack, model__qk_norm=False), runs=tmp_path)
    assert called(found, "failed", "warn") == expected.keys()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny")


LORA = {"model__lora_rank": 2, "model__lora_dropout": 0.1, "model__lora_targets": ["attention", "cross", "feedforward"]}


@pytest.mark.parametrize("overrides", [{}, {"model__freeze": ["^encoder"]}, LORA, {"data__null_share": 0.0}])
def test_weights_from_elsewhere_pass(pack, weights, tmp_path, overrides):
    found = preflight(weighted(pack, weights, **overrides), runs=tmp_path)
    assert not called(found, "failed", "warn"), [check for check in found if check.status in ("failed", "warn")]
    keeps = {"frozen"} if not overrides or "data__null_share" in overrides else set()
    assert called(found, "skipped") == {"resume", "demos", "init", "capacity"} | OF_SOUND | OF_MOT | keeps
    if overrides is LORA:
        assert "adapters moved" in one(found, "frozen").found and "unchanged" in one(found, "frozen").found


@pytest.mark.parametrize("overrides", [{"model__freeze": ["^encoder"]}, LORA])
def test_a_frozen_weight_that_changes_is_named(pack, weights, tmp_path, monkeypatch, overrides):
    expected = lab_planted.WITH_FROZEN_ENCODER["frozen_weight_changed"](monkeypatch)
    found = preflight(weighted(pack, weights, **overrides), runs=tmp_path)
    assert called(found, "failed", "warn") == expected.keys()
    assert expected["frozen"] in one(found, "frozen").found


def test_adapters_that_do_not_move_are_named(pack, weights, tmp_path):
    still = [{"pattern": "lora_", "lr": 1e-30}]
    found = preflight(weighted(pack, weights, **LORA, optim__groups=still), runs=tmp_path)
    assert {"frozen"} <= called(found, "failed") <= {"frozen", "one batch"}
    assert "lora_A" in one(found, "frozen").found


def test_weights_of_other_codes_are_refused(pack, tmp_path):
    codec = {"name": None, "sample_rate": 16000, "frame_rate": [20, 1], "cardinality": 12, "codebooks": 3,
             "layout": "mono", "books": []}  # fmt: skip
    found = preflight(weighted(pack, make_weights(tmp_path / "w", codec=codec)), runs=tmp_path)
    assert one(found, "data").status == "failed" and one(found, "data").code == "TRAIN058"


@pytest.mark.parametrize(
    ("overrides", "check", "status"),
    [
        ({"model__attention_scale": 1.0}, "attention", "failed"),
        ({"model__attention_scale": 1.0, "model__qk_norm": False}, "attention", "failed"),
        ({"optim__lr": 0.3}, "rate", "failed"),
        ({"data__null_share": 0.0}, "guidance", "warn"),
        ({"model__head_width": 8}, "shape", "warn"),
        ({"model__text_feedforward": 16}, "shape", "warn"),
        ({"model__text_length": 4, "model__tag_tokens": False}, "words", "warn"),
        ({"model__tag_tokens": False, "demo__prompts": ["piano, banjo"]}, "words", "warn"),
    ],
)
def test_a_fault_of_the_configuration_is_named(pack, tmp_path, overrides, check, status):
    found = preflight(dia(pack, **overrides), runs=tmp_path)
    assert called(found, "failed", "warn") == {check}, [c for c in found if c.status in ("failed", "warn")]
    assert one(found, check).status == status and one(found, check).remedy


def test_the_cause_of_wide_attention_is_said(pack, tmp_path):
    found = one(preflight(dia(pack, model__attention_scale=1.0), runs=tmp_path), "attention")
    assert "the scale is 1, 1/sqrt(head width) is 0.25" in found.found
    assert "model.attention_scale" in found.remedy


def test_guidance_that_is_asked_for_and_not_learned(pack, tmp_path):
    asked = {"demo__temperatures": [0.0], "demo__prompts": ["piano"], "demo__guidance": [1.0, 3.0]}
    found = preflight(dia(pack, data__null_share=0.0, **asked), runs=tmp_path)
    assert one(found, "guidance").status == "failed" and one(found, "guidance").code == "SAMPLE005"
    assert "guidance 3" in one(found, "guidance").found


def test_a_pack_without_words(tmp_path):
    found = preflight(dia(make_pack(tmp_path / "bare", words=False)), runs=tmp_path / "runs")
    assert one(found, "words").status == "warn" and "rvq" in one(found, "words").remedy


def test_texts_that_are_cut_are_counted(pack, tmp_path):
    found = one(preflight(dia(pack, model__text_length=4, model__tag_tokens=False), runs=tmp_path), "words")
    assert "7 texts are cut at 4 ids" in found.found and "model.text_length" in found.remedy

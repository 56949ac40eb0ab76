"""A prompt that comes back, in every family of codes; and the defect D2, codes in another order, which is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab_planted import config as of_codes
from lab_planted import make_pack

from partimento.config import parse
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.prompts import prompt_comes_back
from partimento.sampling import sheet

sys.path.append(str(Path(__file__).parents[1] / "runs"))
from small_models import write_llama


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder)
    return folder


def made(family, pack, llama, pattern):
    if family != "mot":
        return of_codes(pack, family, model__pattern=pattern, data__window=60)
    return parse({
        "family": "mot", "data": {"pack": str(pack), "window": 60}, "train": {"device": "cpu"},
        "model": {"backbone": str(llama), "text_length": 24, "pattern": pattern, "expert_width": 8, "expert_inner": 16},
        "demo": {"temperatures": []},
    })  # fmt: skip


@pytest.mark.parametrize("pattern", ["delay", "flat"])
@pytest.mark.parametrize("family", ["rvq", "dia", "mot"])
def test_a_prompt_comes_back_and_one_that_was_reshaped_does_not(pack, llama, tmp_path, monkeypatch, family, pattern):
    bench = Bench(made(family, pack, llama, pattern), tmp_path)
    found = prompt_comes_back(bench)
    assert found.status == "ok" and "16 frames of c" in found.found
    assert bench.task.module.training
    revert = sheet.revert

    def reshaped(*args, **options):
        """What is interleaved frame by frame, read as [K, T]."""
        codes_BTK = revert(*args, **options)
        B, T, K = codes_BTK.shape
        return codes_BTK.reshape(B, K, T).transpose(1, 2)

    monkeypatch.setattr(sheet, "revert", reshaped)
    found = prompt_comes_back(bench)
    assert found.status == "failed" and "codes of a prompt came back as others" in found.found


def test_where_no_text_can_be_told_the_null_condition_is_played_if_it_is_learned(pack, llama, tmp_path):
    config = made("mot", pack, llama, "delay")
    short = config.model_copy(update={"model": config.model.model_copy(update={"text_length": 2})})
    assert prompt_comes_back(Bench(short, tmp_path)).status == "ok"
    never = short.model_copy(update={"data": config.data.model_copy(update={"null_share": 0.0})})
    assert prompt_comes_back(Bench(never, tmp_path)).status == "skipped"

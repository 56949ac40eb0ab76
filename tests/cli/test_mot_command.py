"""A run of the `mot` family as a user types it: train, sample, report, export, begin again with what was learned."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from partimento.cli.main import main

sys.path += [str(Path(__file__).parents[1] / room) for room in ("training", "play")]
from codes_toy import ToyCodec
from mot_toy import write_llama, write_musicgen, write_pack

from partimento.errors import PartimentoError
from partimento.runs import published
from partimento.tokens import patterns
from partimento.tokens.text import Words
from partimento.training.player import Player

transformers = pytest.importorskip("transformers")
MODEL = ("model.expert_width=8", "model.expert_inner=16", "model.text_length=24")
SHORT = ("train.steps=4", "train.valid_every=4", "train.save_every=4", "train.device=cpu", "data.window=24")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("place")
    write_pack(here / "pack")
    write_llama(here / "llama")
    (here / "mot.toml").write_text(
        'family = "mot"\n[data]\npack = "pack"\n[model]\nbackbone = "llama"\n'
        '[demo]\ntemperatures = [0.0]\nseconds = 0.2\nprompts = ["slow | climbing"]\nguidance = [1.0, 2.0]\n'
    )
    return here


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, args)))
    return int(ended.value.code or 0), capsys.readouterr().out


def ok(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    status, out = run(capsys, *args, "--json")
    assert status == 0, out
    found: dict[str, Any] = json.loads(out)
    return found


def test_from_a_configuration_to_a_folder_that_others_load(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    ok(capsys, "train", "mot.toml", *MODEL, *SHORT, "--run", "r", "-q")
    assert (place / "runs" / "r" / "demos").is_dir()
    made = ok(capsys, "sample", "runs/r", "--to", "played", "--tags", "slow", "--prompt", "falling", "--guidance", 2,
              "--seconds", 0.2, "-q")  # fmt: skip
    assert (made["samples"][0]["tags"], made["samples"][0]["text"]) == (["slow"], "falling")
    ok(capsys, "report", "runs/r")
    assert 'id="experts"' not in (place / "runs" / "r" / "report.html").read_text()
    told = ok(capsys, "weights", "export", "runs/r", "--to", "beside", "-q")
    assert told["layout"] == "partimento" and not list((place / "beside").glob("tokenizer*"))
    seen = ok(capsys, "weights", "inspect", "beside")
    assert seen["parameters"] == told["parameters"] and seen["backbone"] == str(place / "llama")
    assert run(capsys, "weights", "export", "runs/r", "--to", "x", "--as", "nari", "-q")[0] == 2
    assert run(capsys, "weights", "export", "runs/r", "--to", "x", "--as", "transformers", "-q")[0] == 2  # delays
    ok(capsys, "train", "mot.toml", *MODEL, *SHORT, "model.weights=beside", "optim.lr=1e-12", "--run", "again", "-q")
    played = [
        ok(capsys, "sample", f"runs/{one}", "--to", f"to-{one}", "--tags", "slow", "--seconds", 0.2, "-q")
        for one in ("r", "again")
    ]
    first, second = (found["samples"][0] for found in played)
    assert first["samples_sha256"] == second["samples_sha256"] and first["run"] != second["run"]
    write_llama(place / "other", seed=9)
    status, out = run(
        capsys, "train", "mot.toml", *MODEL, *SHORT, "model.backbone=other", "model.weights=beside", "--json"
    )
    assert status == 2 and json.loads(out)["error"]["code"] == "TRAIN073"


def test_what_experts_were_taken_from_is_shown_before_during_and_after(
    capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    """The same rows in plan, preflight, report and inspect; a training that begins with those of another says so."""
    write_musicgen(place / "musicgen", layers=5)
    base = ("model.text_length=24", "model.experts_from=musicgen", *SHORT, "demo.temperatures=[]")
    up = "decoder.model.decoder.layers.0-1.fc1.weight"
    summary = (
        "4 of 8 tensors of the experts (384 of 896 numbers) are those of musicgen; its layers 2-4 of 5 are not used"
    )
    for command in ("plan", "preflight"):
        status, out = run(capsys, command, "mot.toml", *base, "-q")
        assert status == 0 and summary in out and "rule: layer i of the backbone takes layer i" in out
        (row,) = [line.split() for line in out.splitlines() if up in line]
        assert row == ["0-1", "up", "12", "x", "8", "192", up]
    ok(capsys, "train", "mot.toml", *base, "--run", "taken", "-q")
    run(capsys, "report", "runs/taken")
    page = (place / "runs" / "taken" / "report.html").read_text()
    assert f"<td>{up}</td>" in page and summary in page
    ok(capsys, "weights", "export", "runs/taken", "--to", "taken", "-q")
    shown = run(capsys, "weights", "inspect", "taken")[1]
    assert summary in shown and up in shown and str(place / "musicgen") in shown
    assert len(ok(capsys, "weights", "inspect", "taken")["experts_from"]["report"]["rows"]) == 8
    ok(capsys, "train", "mot.toml", *base, "model.weights=taken", "--run", "on", "-q")
    ok(capsys, "weights", "export", "runs/on", "--to", "on", "-q")
    assert "4 of these tensors were trained before" in run(capsys, "weights", "inspect", "on")[1]


def test_a_flat_run_is_what_transformers_computes(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    """1e-5 of logits near 1, float32."""
    flat = ("model.pattern=flat", "model.vocabulary=shared", "demo.temperatures=[]")
    ok(capsys, "train", "mot.toml", *MODEL, *SHORT, *flat, "--run", "flat", "-q")
    told = ok(capsys, "weights", "export", "runs/flat", "--to", "whole", "--as", "transformers", "-q")
    assert told["source"]["run"] == "flat"
    seen = ok(capsys, "weights", "inspect", "whole")
    assert "AutoModelForCausalLM.from_pretrained" in seen["loaded by"] and seen["export"]["layout"] == "transformers"
    with pytest.raises(PartimentoError) as caught:
        published.read("whole")
    assert "AutoModelForCausalLM.from_pretrained" in str(caught.value.next)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place / "whole", trust_remote_code=True).eval()
    player = Player.from_checkpoint(place / "runs" / "flat" / "checkpoints" / "step-000000004")
    text = player.coder.batch([Words.parse("slow | climbing")])
    words_1M = text[0][:, : int(text[1].sum())]
    codes_TK = torch.randint(16, (5, 3), generator=torch.Generator().manual_seed(0))
    audio = theirs.config.audio
    ids = torch.cat([words_1M, torch.tensor([[audio["start"]]]), audio["text"] + codes_TK.reshape(1, -1)], 1)
    grid_1SK = patterns.apply(codes_TK[None], player.pattern, player.specials, ends=False)
    with torch.inference_mode():
        logits_SKV = player.decoder(grid_1SK, **player.told([Words.parse("slow | climbing")])[0].arguments())[0]
        logits = theirs(ids).logits[0, words_1M.shape[1] :, audio["text"] : audio["text"] + 16]
    torch.testing.assert_close(logits, logits_SKV[:, 0, :16], rtol=0, atol=1e-5)

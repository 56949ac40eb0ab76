"""`partimento weights`: as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from partimento.cli.main import main

transformers = pytest.importorskip("transformers")


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0), capsys.readouterr().out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    small |= {"num_key_value_heads": 2, "head_dim": 8}
    cross = {"cross_hidden_size": 16, "cross_num_attention_heads": 2, "cross_num_key_value_heads": 2}
    ids = {"vocab_size": 12, "eos_token_id": 8, "pad_token_id": 9, "bos_token_id": 10}
    codes = {**small, **cross, **ids, "cross_head_dim": 8, "num_channels": 2}
    config = transformers.DiaConfig(encoder_config=small, decoder_config=codes, delay_pattern=[0, 1])
    folder = tmp_path_factory.mktemp("hub") / "dia"
    transformers.DiaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_import_inspect_export(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "weights"
    status, out = run(capsys, "weights", "import", checkpoint, "--to", folder, "--generation", "0626", "-q")
    assert status == 0 and "dia, generation 0626" in out and "model.weights" in out
    status, out = run(capsys, "weights", "inspect", folder, "--json")
    told = json.loads(out)
    assert status == 0 and told["delays"] == [0, 1] and told["facts"]["guidance_rule"] == "filter"
    status, out = run(capsys, "weights", "inspect", folder)
    assert status == 0 and "without positions" in out and told["sha256"] in out and "not said" in out
    status, out = run(capsys, "weights", "export", folder, "--to", tmp_path / "out", "--as", "transformers", "--json")
    assert status == 0 and json.loads(out)["layout"] == "transformers"
    again = transformers.DiaForConditionalGeneration.from_pretrained(tmp_path / "out")
    theirs = transformers.DiaForConditionalGeneration.from_pretrained(checkpoint)
    for name, value in theirs.state_dict().items():
        if name != "logits_dense.weight":
            assert torch.equal(again.state_dict()[name], value)
    status, _ = run(capsys, "weights", "export", folder, "--to", tmp_path / "nari", "--as", "nari", "-q")
    assert status == 0 and (tmp_path / "nari" / "config.json").exists()


def test_the_generation_must_be_said(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = run(capsys, "weights", "import", checkpoint, "--to", tmp_path / "x", "--json", "-q")
    assert status == 2 and json.loads(out)["error"]["code"] == "WEIGHTS005"
    status, out = run(
        capsys, "weights", "import", checkpoint, "--to", tmp_path / "x", "--generation", "may", "--json", "-q"
    )
    assert status == 2 and json.loads(out)["error"]["code"] == "WEIGHTS005"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_folders_that_are_no_weights(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = ["--to", tmp_path / "to", "-q"] if command == "export" else []
    status, out = run(capsys, "weights", command, tmp_path, *extra, "--json")
    assert status != 0 and json.loads(out)["error"]["code"] == {"inspect": "WEIGHTS001", "export": "RUN001"}[command]
    assert not (tmp_path / "to").exists()

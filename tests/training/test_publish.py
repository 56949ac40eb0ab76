"""The weights of a run leave it: what another program loads of them computes what the run plays."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from codes_toy import config as toy_config
from codes_toy import write_pack
from torch import Tensor

from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.runs import foreign, published
from partimento.runs.run import Run
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train
from partimento.training.player import Player
from partimento.training.publish import export_weights

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def dia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Dia of 3 codebooks, imported."""
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    cross = {"cross_hidden_size": 16, "cross_num_attention_heads": 2, "cross_num_key_value_heads": 2}
    ids = {"vocab_size": 20, "eos_token_id": 16, "pad_token_id": 17, "bos_token_id": 18}
    theirs = transformers.DiaConfig(
        encoder_config={**small, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 32},
        decoder_config={
            **{**small, **cross, **ids},
            "cross_head_dim": 8,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_channels": 3,
            "max_position_embeddings": 128,
        },
        delay_pattern=[0, 2, 3],
    )
    folder = tmp_path_factory.mktemp("hub")
    transformers.DiaForConditionalGeneration(theirs).save_pretrained(folder / "hub")
    foreign.import_foreign(folder / "hub", folder / "dia", generation="0626")
    return folder / "dia"


def trained(dia: Path, folder: Path, **model: object) -> Run:
    books = 6 if model.pop("stereo", False) else 3
    spec = CodecSpec("toy", "ab" * 32, 44100, Fraction(44100, 512), (16,) * books)
    if books == 6:
        spec = CodecSpec("toy", "ab" * 32, 44100, Fraction(44100, 512), (16,) * 6, "left-right", (3, 3))
    writer = PackWriter(folder / "pack", spec)
    for clip in range(12):
        walk = (np.arange(90)[:, None] + clip) * np.arange(1, books + 1) % 13
        writer.add(walk, clip=f"clip{clip}.wav", tags=["fast" if clip % 2 else "slow"])
    writer.finish()
    tree = {
        "family": "dia",
        "data": {"pack": str(folder / "pack"), "window": 32},
        "model": {"weights": str(dia), **model},
        "optim": {"batch": 2, "lr": 0.01, "warmup": 1},
        "train": {"steps": 3, "valid_items": 2, "device": "cpu"},
        "demo": {"temperatures": []},
    }
    return train(parse(tree), runs=folder / "runs")  # type: ignore[arg-type]


def inputs(books: int) -> tuple[Tensor, Tensor, Tensor]:
    text, grid = torch.randint(0, 256, (2, 9)), torch.randint(0, 19, (2, 7, books))
    return text, torch.arange(9) < torch.tensor([[9], [4]]), grid


@pytest.mark.parametrize("model", [{}, {"lora_rank": 2}, {"lora_rank": 2, "stereo": True}])
def test_from_pretrained_computes_what_the_run_plays(dia: Path, tmp_path: Path, model: dict) -> None:
    """1e-6 of logits near 1, float32: full, with adapters, and from mono to stereo."""
    run = trained(dia, tmp_path, **model)
    told = export_weights(run.path, tmp_path / "out", layout="transformers")
    assert told["source"]["run"] == run.id and told["source"]["weights"] == "ema"
    theirs, report = transformers.DiaForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    player = Player.from_checkpoint(next((run.path / "checkpoints").glob("step-*")))
    books = player.spec.codebooks
    text, mask, grid = inputs(books)
    with torch.inference_mode():
        words = player.module.told(text, mask, torch.ones(2).bool())
        played = player.decoder(grid, **words.arguments())
        logits = theirs.eval()(input_ids=text, attention_mask=mask.long(), decoder_input_ids=grid).logits
    expected = logits.view(2, books, 7, 20).transpose(1, 2)[..., :17]
    torch.testing.assert_close(played, expected, rtol=0, atol=1e-6)
    assert theirs.config.delay_pattern == [0, 2, 3] * (books // 3)


def test_a_folder_of_a_run_keeps_what_it_is(dia: Path, tmp_path: Path) -> None:
    run = trained(dia, tmp_path)
    export_weights(run.path, tmp_path / "out", weights="raw")
    found, base = published.read(tmp_path / "out"), published.read(dia)
    assert found.facts.source == {"run": run.id, "checkpoint": "step-000000003", "weights": "raw"}
    kept = ("kind", "generation", "model", "delays", "specials", "ending", "guidance_rule", "null_trained")
    assert all(getattr(found.facts, name) == getattr(base.facts, name) for name in kept)
    assert found.frame_rate == base.frame_rate and found.facts.codec.name == "toy" and found.sha256 != base.sha256
    assert (found.folder / "theirs" / "config.json").exists()


def test_what_cannot_leave(dia: Path, tmp_path: Path) -> None:
    run = train(toy_config(write_pack(tmp_path / "pack"), demo={"temperatures": []}), runs=tmp_path / "runs")
    for source, code in ((run.path, "WEIGHTS009"), (tmp_path, "RUN001")):
        with pytest.raises(PartimentoError) as caught:
            export_weights(source, tmp_path / "out", layout="transformers")
        assert caught.value.code == code and not (tmp_path / "out").exists()
    for path in (run.path / "checkpoints").glob("*"):
        path.rename(tmp_path / path.name)
    with pytest.raises(PartimentoError) as caught:
        export_weights(run.path, tmp_path / "out")
    assert caught.value.code == "CKPT003"
    with pytest.raises(PartimentoError) as caught:
        export_weights(dia, dia)
    assert caught.value.code == "WEIGHTS008"

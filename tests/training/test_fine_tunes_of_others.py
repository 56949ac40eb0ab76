"""A fine-tune of weights with a T5 and conventions of their own: what they mean goes with them, T5 stays theirs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes_toy import SPEC, ToyCodec, config

from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.models.decoder import DecoderConfig
from partimento.models.dia import TextModel
from partimento.runs import checkpoint, published
from partimento.runs.events import curve, read_events
from partimento.runs.published import Facts
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.sampling.sheet import Ending
from partimento.tokens.spec import Specials
from partimento.tokens.text import Words
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train
from partimento.training.player import Player
from partimento.training.tasks.codes import CodesTask

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

T5 = {"vocab_size": 8, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
T5 |= {"layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu"}


@pytest.fixture(autouse=True)
def _toy_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: ToyCodec())


def tokenizer(folder: Path) -> None:
    """Words, and an end of the text."""
    names = ("<pad>", "</s>", "<unk>", "fast", "slow", "dark")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: number for number, name in enumerate(names)}, "<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    (folder / published.TOKENIZER).mkdir()
    made.save(str(folder / published.TOKENIZER / "tokenizer.json"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    decoder = DecoderConfig(
        codebooks=3, rows=17, outputs=16, width=32, layers=2, heads=2, feedforward=48, max_positions=40, cross_width=32
    )
    model = TextModel.from_json(
        {
            "encoder": {"kind": "t5", "config": {"t5": T5, "width": 32}},
            "decoder": decoder.to_json(),
            "null": "empty",
        }
    )
    facts = {
        "kind": "musicgen",
        "generation": None,
        "model": model.to_json(),
        "delays": [0, 1, 2],
        "specials": {"eos": None, "pad": 16, "bos": 16},
        "ending": {"eos": "never", "tail": "special"},
        "guidance_rule": "filter",
        "null_trained": True,
        "words": {"kind": "subwords", "length": 5},
        "codec": {
            "name": "toy",
            "sample_rate": SPEC.sample_rate,
            "frame_rate": [50, 1],
            "cardinality": 16,
            "codebooks": 3,
            "layout": "mono",
            "books": [],
        },
        "source": {},
        "licence": None,
    }
    folder = tmp_path_factory.mktemp("weights") / "start"
    published.save(folder, model, Facts.model_validate(facts), tokenizer)
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pack"
    writer = PackWriter(folder, SPEC)
    for clip in range(24):
        codes_TK = np.random.default_rng(clip).integers(0, 16, (120, 3))
        caption = "fast dark slow dark fast" if clip % 2 else "dark"
        writer.add(codes_TK, clip=f"clip{clip}.wav", tags=["fast"], caption=caption)
    writer.finish()
    return folder


def started(pack: Path, weights: Path, **model: Any) -> Any:
    tree = config(pack, "dia").model_dump(mode="json")
    tree["model"] = {"weights": str(weights), **model}
    tree["data"] |= {"window": 24, "text": "caption", "null_share": 0.2}
    tree["demo"]["temperatures"] = []
    return parse(tree)


@pytest.mark.parametrize("model", [{}, {"lora_rank": 2}], ids=["all", "adapters"])
def test_conventions_go_with_the_weights_and_t5_stays_with_them(
    pack: Path, weights: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    start = tmp_path / "start"
    shutil.copytree(weights, start)
    run = train(started(pack, start, **model), runs=tmp_path / "runs")
    path = checkpoint.newest(run.path / "checkpoints", note=print)
    assert path is not None
    kept = checkpoint.load(path, ("model",)).parts["model"]
    assert kept and not any(".t5." in name for name in kept)
    player = Player.from_checkpoint(path)
    assert player.ending == Ending("never", "special") and player.specials == Specials.musicgen(16)
    assert player.rule == "filter" and player.knows_null and player.window == 24
    with pytest.raises(PartimentoError) as refused:
        player.require(Words((), "fast dark slow dark fast"))
    assert refused.value.code == "TEXT001"
    told = {"words": Words((), "dark"), "guidance": Guidance(2.0, "filter")}
    played = player.play(frames=60, seeds=[1], rules=Rules(), **told)[0]  # past the window, and never past an end
    assert len(played.codes_TK) == 60 and not played.ended
    contexts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("partimento.training.player.generate", lambda *_, context, **__: contexts.append(context))
        player.play(frames=60, seeds=[1], rules=Rules(), **told)
    assert contexts == [24], "what this training saw, not the 40 that the weights have positions for"

    measured = [ce for _, ce in curve(read_events(run.events_path), "valid", "ce_K")][-1]
    task = CodesTask(started(pack, weights), torch.device("cpu"))
    task.module.load_state_dict(player.module.state_dict())
    task.objective.eval()
    with torch.no_grad():
        assert task.evaluate()["ce_K"] == pytest.approx(measured, abs=1e-5)
    shutil.rmtree(start)
    with pytest.raises(PartimentoError) as refused:
        Player.from_checkpoint(path)
    assert refused.value.code == "WEIGHTS001" and "put the folder there" in (refused.value.next or "")


def test_a_text_that_is_cut_keeps_its_end(pack: Path, weights: Path) -> None:
    task = CodesTask(started(pack, weights), torch.device("cpu"))
    clips = task.train.clips
    long = sum(len(task.pack.clips.caption[clip] or "") > 4 for clip in clips.tolist())
    assert task.notes == [f"{long} of {len(clips)} texts are longer than 5 ids, and are cut there"]
    text_BM, mask_BM = task.coder.batch([Words((), "fast dark slow dark fast"), Words((), "dark"), Words()])
    assert text_BM.tolist() == [[3, 5, 4, 5, 1], [5, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert mask_BM.sum(dim=1).tolist() == [5, 2, 0]

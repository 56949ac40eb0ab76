"""The experiment files: every one loads and says what it is for; those of the dia family are planned from shapes alone,
and the figures in their heads are those that the plan gives."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from partimento.config import DiaConfig, load
from partimento.errors import PartimentoError
from partimento.lab.plan import plan
from partimento.lab.plan.text import number
from partimento.models.weights.dia import describe_dia
from partimento.models.weights.musicgen import describe_musicgen
from partimento.runs.published import Facts
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

FILES = sorted((Path(__file__).parents[2] / "configs" / "experiments").glob("*.toml"))
NO_TENSORS = {"model.safetensors": {"bytes": 0, "sha256": "0" * 64}}
NAMES = [file.stem for file in FILES]
DAC = CodecSpec("dac-44k", "0" * 64, 44100, Fraction(44100, 512), (1024,) * 9)
ENCODEC = CodecSpec("encodec-32k", "0" * 64, 32000, Fraction(50), (2048,) * 4)


def file(name):
    return FILES[NAMES.index(name)]


def head(name):
    lines = file(name).read_text().splitlines()
    return "\n".join(lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))])


def make_pack(folder, spec):
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, spec)
    for clip in range(6):
        codes = rng.integers(0, spec.cardinality, (2000, spec.codebooks))
        writer.add(codes, clip=f"c{clip}", tags=["techno"], caption="a slow waltz", source=str(clip))
    writer.finish()
    return folder


def describe(folder, described, generation=None):
    """weights.json of the published shape: all that a plan reads."""
    told = {"generation": generation, "null_trained": True, "source": {}, "licence": None}
    facts = Facts.model_validate_json(json.dumps({**asdict(described), **told}))
    folder.mkdir(parents=True)
    (folder / "weights.json").write_text(
        json.dumps({**facts.model_dump(mode="json"), "schema": 1, "partimento": "0", "files": NO_TENSORS})
    )
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Packs and weights under the names that the files have for them."""
    from tokenizers import Tokenizer, models

    root = tmp_path_factory.mktemp("here")
    dac = make_pack(root / "packs" / "mine", DAC)
    (root / "packs" / "two").symlink_to(dac)
    make_pack(root / "packs" / "mine-32k", ENCODEC)
    dia = {"encoder_config": {}, "decoder_config": {}}
    describe(root / "weights" / "dia-1.6b-0626", describe_dia(dia, "0626"), "0626")
    small = {
        "decoder": {
            "vocab_size": 2048, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "ffn_dim": 4096, "num_codebooks": 4, "audio_channels": 1, "max_position_embeddings": 2048,
        },
        "text_encoder": {
            "model_type": "t5", "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12,
            "vocab_size": 32128,
        },
        "audio_encoder": {"sampling_rate": 32000, "upsampling_ratios": [8, 5, 4, 4]},
    }  # fmt: skip
    folder = describe(root / "weights" / "musicgen-small", describe_musicgen(small))
    (folder / "tokenizer").mkdir()
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    words.save(str(folder / "tokenizer" / "tokenizer.json"))
    return root


@pytest.mark.parametrize("name", NAMES)
def test_every_file_loads_and_says_what_it_is_for(name):
    config = load(file(name))
    assert len(head(name)) > 60 and (f"configs/experiments/{name}.toml" in head(name) or "docs/" in head(name))
    assert config.family in ("rvq", "dia", "mot", "codec", "restore")


PLANNED = {
    "dia_1_6b_full": 1,
    "dia_1_6b_lora": 1,
    "dia_256h_one_gpu": 1,
    "dia_tpu": 8,
    "musicgen_finetune": 1,
    "overfit_one_clip": 1,
}


SLOW = {"musicgen_finetune"}  # transformers takes its time


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PLANNED]
)
def test_the_figures_in_its_head_are_planned(here, monkeypatch, name):
    """Without weights and without their device."""
    monkeypatch.chdir(here)
    config = load(file(name))
    assert isinstance(config, DiaConfig)
    found = plan(config, devices=PLANNED[name])
    told = head(name)
    assert number(found.parameters).replace(" ", "") in told.replace(" ", "")
    memory = found.options[0].memory
    assert f"{memory.total / 1e9:.1f} GB" in told
    if config.model.weights and "1_6b" in name:
        for part in ("weights", "copies", "activations"):
            assert f"{getattr(memory, part) / 1e9:.2f} GB" in told, part


def test_the_published_shape_has_its_parameters(here, monkeypatch):
    monkeypatch.chdir(here)
    full, lora = (plan(load(file(f"dia_1_6b_{kind}"))) for kind in ("full", "lora"))
    assert 1.60e9 < full.parameters < 1.62e9 and full.frozen == 0
    assert lora.frozen == full.parameters and lora.trainable < 0.02 * full.parameters
    assert lora.checkpoint_bytes < full.checkpoint_bytes / 50


def test_weights_that_are_not_there_are_named_with_their_command(here, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packs").symlink_to(here / "packs")
    with pytest.raises(PartimentoError, match="WEIGHTS001") as caught:
        plan(load(file("dia_1_6b_full")))
    assert "weights import" in caught.value.next


def test_what_a_decoder_is_trained_for_is_the_codec_that_comes_with_the_package():
    from partimento.codecs import resident
    from partimento.training.tasks.codec import network_config
    from partimento.waveform.autoencoder import Autoencoder

    config = load(file("decoder_finetune"))
    _, tensors, _ = resident.read_network(resident.folder_of(config.model.weights))
    mine = Autoencoder(network_config(config.model)).codes_state()
    assert {name: tensor.shape for name, tensor in mine.items() if name in tensors} == {
        name: tensors[name].shape for name in mine if name in tensors
    }
    assert any("books" in name for name in mine) and len([name for name in mine if name in tensors]) > 5


def test_a_longer_context_hears_as_much_a_step():
    long, short = (load(file(name)) for name in ("clean_long_context", "clean"))
    assert long.data.crop == 4 * short.data.crop and 4 * long.optim.batch == short.optim.batch
    assert long.optim.model_copy(update={"batch": 8}) == short.optim and long.loss == short.loss


def test_a_tpu_needs_one_shape():
    config = load(file("dia_tpu"))
    assert not config.train.stages and not config.train.cuda_graphs and config.train.compile is False
    assert config.data.window >= config.demo.seconds * 44100 / 512

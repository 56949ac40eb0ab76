"""A codec's way out of its run: which checkpoint, what the card says, and codes that a training of the decoder kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from partimento.codecs.codec import encode_whole, open_codec
from partimento.codecs.resident import CARD, WEIGHTS, start_from
from partimento.config import CodecConfig, load, parse
from partimento.errors import PartimentoError
from partimento.progress import Quiet
from partimento.runs import checkpoint
from partimento.training.engine import train
from partimento.training.export import export_resident
from partimento.training.tasks.codec import network_config
from partimento.waveform.autoencoder import Autoencoder

RATE = 24000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of tones at 24 kHz, a run of 8 steps on them, and the codec that it exports."""
    root = tmp_path_factory.mktemp("export")
    (root / "takes").mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        time = np.arange(5000 + 300 * number) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * number) * time) + 0.01 * rng.standard_normal(len(time))
        soundfile.write(root / "takes" / f"take{number}.wav", tone, RATE)
    train(configuration(root), runs=root, run="first")
    export_resident(root / "first", root / "codec", name="mine")
    return root


def configuration(root: Path, **model: Any) -> CodecConfig:
    sizes = {"width": 16, "encoder_layers": 1, "decoder_layers": 1, "latent": 4, "codebooks": 3, "cardinality": 16}
    config = parse(
        {
            "family": "codec",
            "data": {"folders": [str(root / "takes")], "band_loops": 0, "crop": 1920},
            "model": {"sample_rate": RATE, "hop": 480, "start_step": 2, **sizes, **model},
            "optim": {"batch": 4, "warmup": 1, "lr": 1e-3, "ema": 0.9},
            "train": {"steps": 8, "save_every": 4, "valid_every": 4, "valid_items": 2, "device": "cpu"},
        }
    )
    assert isinstance(config, CodecConfig)
    return config


class Notes(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_best_checkpoint_leaves_the_run(root: Path, tmp_path: Path) -> None:
    best = checkpoint.best(root / "first" / "checkpoints")
    assert best is not None
    notes = Notes()
    card = export_resident(root / "first", tmp_path / "again", name="mine", progress=notes)
    assert card["recipe"]["steps"] == checkpoint.load(best, []).step
    assert any(best.name in note and "best" in note for note in notes.notes)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (root / "codec" / WEIGHTS).read_bytes()


def test_the_card_says_what_it_is(root: Path) -> None:
    card = json.loads((root / "codec" / CARD).read_text())
    codec = open_codec(str(root / "codec"))
    assert codec.spec.weights == card["codes_sha256"] != card["weights_sha256"]
    assert (codec.spec.sample_rate, codec.spec.hop, float(codec.spec.frame_rate)) == (RATE, 480, 50.0)
    assert "MDCT" in card["description"] and card["network"]["hop"] == 480
    minutes = sum(card["data"][side]["takes"]["minutes"] for side in ("train", "held_out"))
    assert minutes == pytest.approx(sum(5000 + 300 * n for n in range(20)) / RATE / 60, abs=0.02)
    assert {"loss", "adversary"} <= card["recipe"]["config"].keys()


@pytest.mark.parametrize("decoder", ["mdct", "stft"])
def test_codes_outlive_their_decoder(root: Path, tmp_path: Path, decoder: str) -> None:
    config = configuration(root, weights=str(root / "codec"), freeze_codes=True, decoder=decoder)
    train(config, runs=tmp_path, run="decoder")
    card = export_resident(tmp_path / "decoder", tmp_path / "better")
    assert card["name"] == "mine", "whose codes it kept"
    assert card["recipe"]["config"]["model"]["weights"] == "codec"
    before, after = open_codec(str(root / "codec")), open_codec(str(tmp_path / "better"))
    assert before.spec == after.spec
    assert before.card["weights_sha256"] != after.card["weights_sha256"]  # type: ignore[attr-defined]
    wave_1N = (0.1 * np.random.default_rng(1).standard_normal((1, 3000))).astype(np.float32)
    assert np.array_equal(encode_whole(before, wave_1N), encode_whole(after, wave_1N))


def test_a_decoder_is_not_exported_with_other_codes(root: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in (WEIGHTS, CARD):
        (base / name).write_bytes((root / "codec" / name).read_bytes())
    train(configuration(root, weights=str(base), freeze_codes=True), runs=tmp_path, run="decoder")
    train(configuration(root, latent=4, start_step=3), runs=tmp_path, run="other")
    shutil.rmtree(base)
    assert export_resident(tmp_path / "other", base)["name"] == "base"
    with pytest.raises(PartimentoError) as caught:
        export_resident(tmp_path / "decoder", tmp_path / "out", name="mine")
    assert caught.value.code == "CODEC041"


def test_a_codec_that_is_there_is_not_replaced(root: Path) -> None:
    """Packs may need it to be heard."""
    before = (root / "codec" / WEIGHTS).read_bytes()
    with pytest.raises(PartimentoError) as caught:
        export_resident(root / "first", root / "codec")
    assert caught.value.code == "WEIGHTS008" and (root / "codec" / WEIGHTS).read_bytes() == before


def test_a_run_is_no_codec_to_begin_with(root: Path) -> None:
    for weights, next in ((root / "first", "codec export"), (root / "nowhere", "codec list")):
        with pytest.raises(PartimentoError) as caught:
            train(configuration(root, weights=str(weights)), runs=root, run="none")
        assert caught.value.code == "CODEC001" and next in str(caught.value.next)


def test_a_crop_for_the_adversary_that_is_told_can_be_set(root: Path) -> None:
    tree = configuration(root).model_dump(mode="json")
    hop = tree["model"]["hop"]
    tree["adversary"]["start"], tree["data"]["crop"] = 0, hop
    with pytest.raises(PartimentoError) as caught:
        train(parse(tree), runs=root, run="short")
    told = int(str(caught.value.next).removeprefix("data.crop=").split(",")[0])
    assert caught.value.code == "TRAIN060" and told % hop == 0


def test_the_preset_for_better_decoders_is_of_the_codec_in_the_package() -> None:
    """Whoever ships other weights has to give the preset their sizes."""
    preset = load(Path(__file__).parents[2] / "configs" / "experiments" / "decoder_finetune.toml")
    assert isinstance(preset, CodecConfig) and preset.model.freeze_codes and preset.model.weights is not None
    network = Autoencoder(network_config(preset.model))
    began = {name: tensor.clone() for name, tensor in network.state_dict().items() if name.startswith("decoder")}
    start_from(network, preset.model.weights, freeze_codes=True)
    assert any(not began[name].equal(network.state_dict()[name]) for name in began), "its decoder goes on learning"

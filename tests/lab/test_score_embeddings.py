"""Embeddings by name: ours, anybody's, and CLAP checkpoints; what fails on a sound is missing and never 0."""

import json

import numpy as np
import pytest
import torch
from lab_fakes import tone

from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.lab.score import score
from partimento.lab.scores.embeddings import OURS, LogMel, embed, open_embedding, pieces

RATE = 16000


@pytest.fixture
def sounds(tmp_path):
    """Two folders of ten short sounds: low ones and high ones."""
    rng = np.random.default_rng(0)
    for name, hertz in (("low", 200), ("high", 2000)):
        for i in range(10):
            wave = tone(1.2, hertz * (1 + 0.1 * rng.random()), level=0.3, rate=RATE)
            files.write(tmp_path / name / f"{i}.wav", (wave + 0.01 * rng.standard_normal(len(wave)))[None], RATE)
    return tmp_path


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the working folder with embeddings and judges, some of which fail."""
    (tmp_path / "judges.py").write_text(
        "import numpy as np\n"
        "class Level:\n"
        "    name, sample_rate, seconds = 'level', 8000, 1.0\n"
        "    def __call__(self, waves_BN):\n"
        "        return np.stack([waves_BN.std(1), np.abs(waves_BN).max(1)], 1)\n"
        "class Shy(Level):\n"
        "    name = 'shy'\n"
        "    def __call__(self, waves_BN):\n"
        "        found = super().__call__(waves_BN)\n"
        "        return found * np.nan if waves_BN.std() > 0.25 else found\n"
        "class Nameless:\n"
        "    sample_rate = 8000\n"
        "    def __call__(self, waves_BN):\n"
        "        return waves_BN\n"
        "def loud(wave_CN, sample_rate):\n"
        "    if np.abs(wave_CN).max() < 0.2:\n"
        "        raise RuntimeError('too quiet for me')\n"
        "    return float(np.abs(wave_CN).max())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "judges", raising=False)


def test_ours_has_a_name_a_dimension_and_a_hash():
    ours = open_embedding(OURS)
    found = embed(ours, np.stack([tone(5, 440, rate=32000), np.zeros(160000, np.float32)]))
    assert ours.name == "logmel-96" and found.shape == (2, 96) and len(ours.sha256) == 64
    assert found[1, :32].tolist() == [-5.0] * 32 and not found[1, 32:].any()  # silence: the floor, and nothing moves
    assert LogMel.sha256 == ours.sha256


def test_level_of_our_embedding_is_in_decades():
    wave = 0.1 * np.random.default_rng(0).standard_normal((1, 64000)).astype(np.float32)
    apart = embed(LogMel(), 10 * wave) - embed(LogMel(), wave)
    assert apart[0, :32] == pytest.approx(1, abs=1e-6) and apart[0, 32:] == pytest.approx(0, abs=1e-6)


def test_pieces_are_equal_spread_and_within():
    wave = np.arange(100.0, dtype=np.float32)[None] / 100
    found = pieces(wave, 10, 10, 3.0)
    assert found.shape == (3, 30) and (found[0, 0], found[-1, -1]) == (0.0, np.float32(0.99))
    assert pieces(wave, 10, 10, 8.0)[0, 0] == np.float32(0.1)  # one piece: the middle
    assert len(pieces(wave, 10, 10, 0.5)) == 8 and pieces(wave, 10, 10, 11.0).shape == (0, 110)


def test_a_set_is_near_itself_and_far_from_another(sounds):
    *_, same = score([sounds / "low"], against=sounds / "low")
    *_, other = score([sounds / "low"], against=sounds / "high")
    near, far = (one.sets.embeddings[0] for one in (same, other))
    assert near.embedding == OURS and near.sha256 == LogMel.sha256 and near.dimension == 96
    assert near.items == near.reference_items == 10 and near.piece_seconds == pytest.approx(1.2)
    assert near.distances.frechet == pytest.approx(0, abs=1e-6) and near.distances.coverage == 1
    assert far.distances.frechet > 1 and far.distances.coverage == 0 and far.distances.density == 0
    assert far.distances.kernel_low > 0
    assert any("under 50" in remark for remark in near.remarks)
    assert any("dimensions" in remark for remark in near.remarks)
    json.dumps(other.to_json(), allow_nan=False)


def test_anybodys_embedding_and_what_fails_on_one_file(sounds, own):
    files.write(sounds / "low" / "loud.wav", tone(1.2, 200, level=0.9, rate=RATE)[None], RATE)
    files.write(sounds / "low" / "short.wav", tone(0.3, 200, level=0.3, rate=RATE)[None], RATE)
    *each, found = score([sounds / "low"], against=sounds / "high", embeddings=["judges:Level", "judges:Shy"])
    level, shy = found.sets.embeddings
    assert (level.embedding, level.dimension, level.items, level.sha256) == ("level", 2, 11, None)
    assert level.left_out == {"shorter than a piece": 1} and level.piece_seconds == 1.0
    assert shy.items == 10 and shy.left_out == {"the embedding failed (LAB052)": 1, "shorter than a piece": 1}
    assert shy.distances.frechet == pytest.approx(shy.distances.frechet) and np.isfinite(shy.distances.frechet)
    missing = {one.name.rsplit("/")[-1]: one.missing for one in each if one.missing}
    assert list(missing) == ["loud.wav"] and missing["loud.wav"]["shy"].startswith("LAB052")
    assert all(one.error is None and one.measures for one in each)


def test_a_judge_that_fails_on_one_file_is_missing_there(sounds, own):
    files.write(sounds / "low" / "quiet.wav", tone(1.2, 200, level=0.1, rate=RATE)[None], RATE)
    found = {one.name.rsplit("/")[-1]: one for one in score([sounds / "low"], predictors=["judges:loud"])}
    assert found["quiet.wav"].predicted == {"judges:loud": None}
    assert "too quiet for me" in found["quiet.wav"].missing["judges:loud"]
    assert found["0.wav"].predicted["judges:loud"] == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("name", ["logmel", "nowhere:Thing", "judges:Nameless", "judges:gone", "judges:Shy:x"])
def test_what_cannot_be_opened_is_a_coded_error(own, name):
    with pytest.raises(PartimentoError) as err:
        open_embedding(name)
    assert err.value.code == "LAB050"


def test_nan_in_a_file_is_a_coded_error(tmp_path):
    import soundfile

    wave = tone(1, 440, rate=RATE)
    wave[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
    (found,) = score([tmp_path / "nan.wav"])
    assert found.error["code"].startswith(("AUDIO", "LAB006")) and found.measures is None and found.music is None


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    """A small CLAP of random weights, as `save_pretrained` writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clap") / "small"
    torch.manual_seed(0)
    text = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 16, "pad_token_id": 1}  # fmt: skip
    audio = {"num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
             "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2], "num_hidden_layers": 2,
             "patch_embeds_hidden_size": 16, "projection_dim": 8, "enable_fusion": False, "num_classes": 4}  # fmt: skip
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE, hop_length=160, max_length_s=1, fft_window_size=512, frequency_max=8000,
        truncation="rand_trunc", padding="repeatpad",
    ).save_pretrained(folder)  # fmt: skip
    words = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "waltz", "techno", "loud", "soft"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_clap_of_a_folder(clap):
    found = open_embedding(f"clap:{clap}")
    waves = np.stack([tone(1, 440, rate=RATE), tone(1, 880, rate=RATE)])
    once, again = embed(found, waves), embed(found, waves)
    assert found.name == "clap:small" and found.sample_rate == RATE and found.seconds == 1.0 and len(found.sha256) == 64
    assert once.shape == (2, 8) and np.linalg.norm(once, axis=1) == pytest.approx(1, abs=1e-5)
    assert (once == again).all()
    # Longer than its window: the beginning, and never a crop by chance.
    assert embed(found, np.concatenate([waves, waves[::-1]], 1)) == pytest.approx(once, abs=1e-6)


def test_clap_likeness_of_sounds_and_their_words(clap, sounds):
    rows = [{"file": f"{i}.wav", "tags": ["waltz" if i % 2 else "techno", "soft"]} for i in range(10)]
    (sounds / "low" / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    *_, found = score([sounds / "low"], embeddings=[f"clap:{clap}"])
    assert found.sets is None
    (similar,) = found.following.clap
    model = open_embedding(f"clap:{clap}")
    waves = [pieces(files.read(sounds / "low" / f"{i}.wav").wave_CN, RATE, RATE, 1.0) for i in range(10)]
    audio = np.stack([embed(model, wave).mean(0) for wave in waves])
    cosine = audio @ model.texts([", ".join(row["tags"]) for row in rows]).T
    others = (cosine.sum() - np.trace(cosine)) / 90
    assert similar.asked == 10 and similar.clap == pytest.approx(np.trace(cosine) / 10, abs=1e-6)
    assert similar.clap_chance == pytest.approx(others, abs=1e-6)
    assert similar.gain_low <= similar.gain <= similar.gain_high


@pytest.mark.parametrize("harm", ["no folder", "weights", "kind", "pickle", "damage"])
def test_a_clap_that_cannot_be_used_is_a_coded_error(clap, tmp_path, harm):
    import shutil

    folder = tmp_path / "broken"
    if harm != "no folder":
        shutil.copytree(clap, folder)
    weights = folder / "model.safetensors"
    if harm == "weights":
        weights.unlink()
    elif harm == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif harm == "kind":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    elif harm == "damage":
        weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(PartimentoError) as err:
        open_embedding(f"clap:{folder}")
    assert err.value.code == "LAB051"

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch
from lab_fakes import log_training, make_run, tone

from partimento.errors import PartimentoError
from partimento.lab.score import score
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

SPEC = CodecSpec("fake", "0" * 64, 8000, Fraction(8000, 80), (16, 16))


class Fake:
    """A codec of 100 frames/s whose two books are the level of the frame and of its first half."""

    spec = SPEC
    context_frames = 0

    def decode(self, codes_BTK):
        return (codes_BTK[..., :1].float() / 16).repeat(1, 1, 80).flatten(1)[:, None]

    def encode(self, wave_BCN):
        wave_BN = torch.nn.functional.pad(wave_BCN[:, 0], (0, -wave_BCN.shape[-1] % 80))
        frames_BTH = wave_BN.unfold(-1, 80, 80).abs()
        levels = torch.stack([frames_BTH.mean(-1), frames_BTH[..., :40].mean(-1)], -1)
        return (levels * 16).long().clamp(0, 15)


def write(path, wave, rate=8000):
    soundfile.write(path, wave, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Twenty clips of 4 s of uniform codes below 8."""
    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: Fake())
    rng = np.random.default_rng(0)
    writer = PackWriter(tmp_path / "pack", SPEC)
    for number in range(20):
        writer.add(rng.integers(0, 8, (400, 2)), clip=f"c{number}")
    return writer.finish()


def test_files_and_folders(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write(folder / "a.wav", tone(1, 440, rate=8000))
    write(folder / "deep" / "b.flac", tone(2, 440, rate=8000))
    scores = score([folder])
    assert [item.measures.seconds for item in scores] == [1.0, 2.0]
    assert all(item.error is None and item.codes is None for item in scores)
    json.dumps([item.to_json() for item in scores], allow_nan=False)


def test_what_fails_is_coded_and_the_rest_is_scored(tmp_path):
    write(tmp_path / "good.wav", tone(1, 440, rate=8000))
    (tmp_path / "bad.flac").write_bytes(b"not a flac at all")
    scores = {item.name.rsplit("/")[-1]: item for item in score([tmp_path])}
    assert scores["bad.flac"].measures is None
    assert scores["bad.flac"].error["code"].startswith("AUDIO")
    assert scores["good.wav"].measures.peak_dbfs == pytest.approx(-6.02, abs=0.05)


def test_silence_is_none_and_not_zero(tmp_path):
    write(tmp_path / "silence.wav", np.zeros(8000, np.float32))
    (item,) = score([tmp_path / "silence.wav"])
    found = item.to_json()["measures"]
    assert [found[name] for name in ("loudness_lufs", "peak_dbfs", "crest_db", "centroid_hz", "pulse")] == [None] * 5
    assert found["silent_share"] == 1


def test_against_a_pack_real_codes_look_like_the_yardstick(tmp_path, pack):
    rng = np.random.default_rng(5)
    # Frames of one level each, so that both books hold the same code, uniform below 8.
    levels = np.repeat(rng.integers(0, 8, 4 * 100) / 16 + 1 / 32, 80).astype(np.float32)
    near = write(tmp_path / "a-near.wav", levels)
    far = write(tmp_path / "b-far.wav", np.full(4 * 8000, 15.5 / 16, np.float32))
    near_score, far_score = (item.codes for item in score([near, far], against=pack.path) if item.codes)
    assert near_score.frames == 400 and near_score.windows == 1 and near_score.yardstick_windows > 1
    yardstick = near_score.yardstick
    # Uniform over 8 codes: the entropy is ln 8 less the bias of 400 samples, (8 - 1) / (2 * 400).
    assert yardstick.entropy_K == pytest.approx([math.log(8) - 7 / 800] * 2, abs=0.01)
    assert yardstick.coverage_K == [0.5, 0.5]
    assert near_score.figures.entropy_K == pytest.approx(yardstick.entropy_K, abs=0.05)
    assert near_score.figures.unigram_kl_K == pytest.approx(yardstick.unigram_kl_K, abs=0.05)
    assert far_score.figures.entropy_K == [0.0, 0.0]  # a measured zero: one code
    assert far_score.figures.repetition_frames > 0.9
    counted = sum(int(frames) for frames in pack.clips.frames[pack.split("train")])
    assert far_score.figures.unigram_kl_K == pytest.approx([math.log(counted + 16)] * 2, rel=1e-6)


def test_a_long_file_is_compared_in_windows_of_the_yardsticks_length(tmp_path, pack):
    path = write(tmp_path / "long.wav", tone(10, 50, level=0.3, rate=8000))
    codes = score([path], against=pack.path)[0].codes
    assert codes.frames == 400 and codes.windows == 2


def test_another_codec_than_the_packs(tmp_path, pack, monkeypatch):
    class Other(Fake):
        spec = CodecSpec("fake", "1" * 64, 8000, Fraction(8000, 80), (16, 16))

    monkeypatch.setattr("partimento.codecs.codec.open_codec", lambda *_, **__: Other())
    path = write(tmp_path / "a.wav", tone(1, 440, rate=8000))
    with pytest.raises(PartimentoError) as err:
        score([path], against=pack.path)
    assert err.value.code == "PACK009"


def test_a_run_brings_its_verdict(tmp_path):
    run = make_run(tmp_path)
    log_training(run)
    (item,) = score(run=run.path)
    assert item.name == run.id and item.verdict.beats_bigram is True
    assert "5,390.1 bits" in item.verdict.sentence and item.measures is None


def test_nothing_to_score():
    with pytest.raises(PartimentoError) as err:
        score([])
    assert err.value.code == "LAB004"

"""Figures of `score` against programs that we did not write. pyloudnorm, scipy and transformers are always here;
prdc, torchmetrics and librosa where they are installed."""

import math

import numpy as np
import pyloudnorm
import pytest
import torch
from scipy.linalg import sqrtm

from partimento.lab.measures import measure
from partimento.lab.scores.loudness_range import meter
from partimento.lab.scores.music import music
from partimento.lab.scores.sets import Points, distances, frechet, neighbours

RATE = 22050


def moving(seed, seconds=12, channels=1, rate=RATE):
    """Noise whose level wanders over 30 dB."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-40, -10, seconds // 2 + 2)
    level = np.interp(np.arange(seconds * rate) / rate, 2 * np.arange(len(points)), points)
    return (10 ** (level / 20) * rng.standard_normal((channels, seconds * rate)) / 3).astype(np.float32)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2), (96000, 1)])
def test_loudness(rate, channels):
    wave = moving(rate + channels, 6, channels, rate)
    found = measure(wave, rate).loudness_lufs
    assert found == pytest.approx(pyloudnorm.Meter(rate).integrated_loudness(wave.T.astype(np.float64)), abs=0.02)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loudness_range(seed):
    """They let 1.5 s of silence follow the recording, and step by 0.09 s."""
    wave = moving(seed, 40, rate=8000)
    other = pyloudnorm.Meter(8000).loudness_range(wave.T.astype(np.float64))
    followed = np.pad(wave, ((0, 0), (0, 12000)))
    assert meter(followed, 8000).range_lu == pytest.approx(other, abs=0.2)


@pytest.mark.parametrize("D", [2, 12])
def test_frechet_by_the_root_of_the_product(D):
    rng = np.random.default_rng(D)
    one, other = rng.standard_normal((50, D)) @ rng.standard_normal((D, D)), rng.standard_normal((70, D)) + 0.3
    C1, C2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    apart = one.mean(0) - other.mean(0)
    expected = apart @ apart + np.trace(C1 + C2 - 2 * np.real(sqrtm(C1 @ C2)))
    assert frechet(one, other) == pytest.approx(expected, rel=1e-8)


def test_coverage_and_density_of_their_authors():
    prdc = pytest.importorskip("prdc", reason="prdc is not installed: pip install prdc")
    rng = np.random.default_rng(0)
    found, reference = rng.standard_normal((60, 8)) * 1.2, rng.standard_normal((80, 8))
    theirs = prdc.compute_prdc(reference, found, nearest_k=5)
    ours = neighbours(Points(found, np.arange(60)), Points(reference, np.arange(80)))
    assert ours == pytest.approx((theirs["coverage"], theirs["density"]), rel=1e-12)


def test_centroid_bandwidth_and_rolloff():
    """librosa weights by magnitude unless it is given powers; a spectrum of one frame is a long-term one."""
    librosa = pytest.importorskip("librosa", reason="librosa is not installed: pip install librosa")
    wave = moving(3, 4)
    power = np.square(np.abs(librosa.stft(wave[0], n_fft=1024, center=False))).sum(1, keepdims=True)
    theirs = [
        float(function(S=power, sr=RATE)[0, 0])
        for function in (librosa.feature.spectral_centroid, librosa.feature.spectral_bandwidth)
    ]
    found = measure(wave, RATE)
    assert [found.centroid_hz, found.bandwidth_hz] == pytest.approx(theirs, rel=0.01)
    rolloff = float(librosa.feature.spectral_rolloff(S=power, sr=RATE, roll_percent=0.85)[0, 0])
    assert found.rolloff_hz == pytest.approx(rolloff, abs=2 * RATE / 1024)


def test_clap_is_the_librarys(tmp_path):
    """Without fusion and within its window, the features of the library's own extractor and model."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    from partimento.lab.scores.clap import Clap

    torch.manual_seed(0)
    audio = {"num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
             "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 2], "num_hidden_layers": 2,
             "patch_embeds_hidden_size": 16, "projection_dim": 8}  # fmt: skip
    text = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16}  # fmt: skip
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).eval()
    extractor = ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=80, max_length_s=1, fft_window_size=256, frequency_max=4000,
        truncation="rand_trunc", padding="repeatpad",
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    waves = np.random.default_rng(0).standard_normal((3, 6000)).astype(np.float32)
    with torch.no_grad():
        given = extractor(list(waves), sampling_rate=8000, return_tensors="pt")
        theirs = model.get_audio_features(**given).pooler_output.numpy()
    assert Clap(tmp_path)(waves) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("D", [3, 40])
def test_kernel_and_frechet_distance_of_torchmetrics(D):
    """Their kernel distance is of two sets of one size; one piece an item makes ours the same."""
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: pip install torchmetrics")
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    rng = np.random.default_rng(D)
    one, other = rng.standard_normal((60, D)), rng.standard_normal((60, D)) * 1.3 + 0.2
    theirs = poly_mmd(torch.from_numpy(one), torch.from_numpy(other), degree=3, gamma=None, coef=1.0)
    ours = distances(Points(one, np.arange(60)), Points(other, np.arange(60)))
    assert ours.kernel == pytest.approx(float(theirs), rel=1e-9)
    means = [torch.from_numpy(points.mean(0)) for points in (one, other)]
    spreads = [torch.from_numpy(np.cov(points, rowvar=False)) for points in (one, other)]
    fid = _compute_fid(means[0], spreads[0], means[1], spreads[1])
    assert ours.frechet == pytest.approx(float(fid), rel=1e-9)


def clicks(bpm, seconds=20):
    """A bar of four: a loud click and three softer ones, as band of noise."""
    wave = np.zeros(seconds * RATE, dtype=np.float32)
    burst = np.random.default_rng(0).standard_normal(800) * np.exp(-np.arange(800) / 150)
    for number in range(int((seconds - 1) * bpm / 60)):
        at = round((0.5 + number * 60 / bpm) * RATE)
        wave[at : at + 800] += (0.2 if number % 4 else 0.5) * burst
    return wave[None]


@pytest.mark.parametrize("bpm", [72, 90, 108, 126, 150])
def test_onset_rate_and_tempo_of_librosa(bpm):
    """Of tempo librosa's autocorrelation knows 86 values only, up to 5 % apart at 200 a minute."""
    librosa = pytest.importorskip("librosa", reason="librosa is not installed: pip install librosa")
    wave = clicks(bpm)
    theirs = len(librosa.onset.onset_detect(y=wave[0], sr=RATE)) / (wave.shape[1] / RATE)
    assert measure(wave, RATE).onsets_per_second == pytest.approx(theirs, rel=0.02)
    tempo = float(librosa.feature.tempo(y=wave[0], sr=RATE)[0])
    found, _ = music(wave, RATE)
    assert min(abs(math.log2(found.tempo_bpm / tempo) - octave) for octave in (-1, 0, 1)) < math.log2(1.04)

"""Losses of sound in float64 against loops and numpy: least squares, features, STFT distance, SI-SDR, balancing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from partimento.waveform.adversarial import discriminator_loss, feature_loss, generator_loss, mean_scores
from partimento.waveform.discriminators import Seen
from partimento.waveform.losses import combine, distances, negative_si_sdr, stft_distance

SHAPES = ((1, 5, 3), (1, 7), (1, 2, 4))  # of scores, without the items
INNER = (((2, 4, 3), (4, 2, 3)), ((3, 6),), ((2, 2, 2), (1, 3, 3), (2, 1, 1)))
ITEMS = 3


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(seed: int) -> list[Seen]:
    return [
        Seen(f"rate {i}", noise(ITEMS, *shape, seed=seed + i), [noise(ITEMS, *s, seed=seed + 10 + i) for s in inner])
        for i, (shape, inner) in enumerate(zip(SHAPES, INNER, strict=True))
    ]


def test_least_squares_and_features_against_sums_by_hand() -> None:
    real, fake = seen(100), seen(200)
    for item in range(ITEMS):
        judge = fool = features = 0.0
        for one, other in zip(real, fake, strict=True):
            true, false = one.score[item].flatten().tolist(), other.score[item].flatten().tolist()
            judge += sum((1 - value) ** 2 for value in true) / len(true)
            judge += sum(value**2 for value in false) / len(false)
            fool += sum((1 - value) ** 2 for value in false) / len(false)
            for a, b in zip(one.maps, other.maps, strict=True):
                left, right = a[item].flatten().tolist(), b[item].flatten().tolist()
                features += sum(abs(x - y) for x, y in zip(left, right, strict=True)) / len(left)
        assert float(discriminator_loss(real, fake)[item]) == pytest.approx(judge, rel=1e-12)
        assert float(generator_loss(fake)[item]) == pytest.approx(fool, rel=1e-12)
        assert float(feature_loss(real, fake)[item]) == pytest.approx(features, rel=1e-12)
        for number, one in enumerate(real):
            mean = sum(one.score[item].flatten().tolist()) / one.score[item].numel()
            assert float(mean_scores(real)[number, item]) == pytest.approx(mean, rel=1e-12)


def magnitudes(wave: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    hop, half = window // 4, window // 2
    padded = np.concatenate([wave[half:0:-1], wave, wave[-2 : -half - 2 : -1]])
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.array([np.abs(np.fft.rfft(taper * padded[at : at + window])) for at in range(0, len(wave) + 1, hop)])


@pytest.mark.parametrize("scale", [1.0, 1e-6])  # at the second most bins lie under the floor
def test_stft_distance_against_numpy(scale: float) -> None:
    made, target = scale * noise(2, 3001, seed=1), scale * noise(2, 3001, seed=2)
    got = stft_distance(made, target)
    for item in range(2):
        expected = 0.0
        for window in (2048, 512):
            one, other = (magnitudes(x[item].numpy(), window) for x in (made, target))
            logs = [np.log10(np.maximum(x, 1e-5) ** 2) for x in (one, other)]
            expected += np.abs(logs[0] - logs[1]).mean() + np.abs(one - other).mean()
        assert float(got[item]) == pytest.approx(float(expected), rel=1e-9)


def test_wave_distance_against_numpy() -> None:
    made, target = noise(2, 301, seed=1), noise(2, 301, seed=2)
    got = distances(made, target, 44100, ["wave"])["wave"]
    np.testing.assert_allclose(got.numpy(), np.abs(made.numpy() - target.numpy()).mean(1), rtol=1e-12)


@pytest.mark.parametrize("noisiness", [10.0, 1.0, 0.01, 1e-3])
def test_si_sdr_against_its_definition(noisiness: float) -> None:
    """The floor of 1e-10 changes it by 1e-3 dB at most, down to noise of -60 dB."""
    target = noise(1, 2000, seed=3)
    made = 0.7 * target + noisiness * noise(1, 2000, seed=4) + 0.1
    x, s = (wave[0].numpy() - wave[0].numpy().mean() for wave in (made, target))
    projected = np.dot(x, s) / np.dot(s, s) * s
    ratio = 10 * np.log10(np.dot(projected, projected) / np.dot(x - projected, x - projected))
    assert float(negative_si_sdr(made, target)) == pytest.approx(-float(ratio), abs=1e-3)


@pytest.mark.parametrize("name", ["stft", "wave", "si_sdr"])
def test_gradients_against_differences(name: str) -> None:
    made, target = 0.3 * noise(1, 700, seed=5), 0.3 * noise(1, 700, seed=6)
    made.requires_grad_()
    (gradient,) = torch.autograd.grad(distances(made, target, 44100, [name])[name].sum(), made)
    for place in (0, 1, 350, 699):
        step = torch.zeros_like(made)
        step[0, place] = 1e-6
        with torch.no_grad():
            above, under = (distances(made + s, target, 44100, [name])[name] for s in (step, -step))
        assert float(gradient[0, place]) == pytest.approx(float((above - under) / 2e-6), rel=1e-4, abs=1e-7)


def test_balancing_against_the_rule_by_hand() -> None:
    """gradient = sum over parts of weight / sum of weights * gradient / running norm of the part (audiocraft's)."""
    gradients = {name: noise(2, 30, seed=i) for i, name in enumerate(("mel", "adversarial", "features"))}
    weights, norms = (
        {"mel": 15.0, "adversarial": 1.0, "features": 2.0},
        {"mel": 0.5, "adversarial": 3.0, "features": 7.0},
    )
    got, sizes = combine(gradients, weights, norms)
    for item in range(2):
        for sample in range(30):
            parts = [weights[n] / 18 * float(gradients[n][item, sample]) / norms[n] for n in gradients]
            assert float(got[item, sample]) == pytest.approx(sum(parts), rel=1e-9)
    for name, gradient in gradients.items():
        by_item = [sum(value**2 for value in row) ** 0.5 for row in gradient.tolist()]
        assert float(sizes[name]) == pytest.approx(sum(by_item) / 2, rel=1e-12)

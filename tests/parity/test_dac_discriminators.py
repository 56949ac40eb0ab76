"""Discriminators in float64 against numpy: slow convolutions, a loop over samples, transforms written out. To 1e-9."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from partimento.waveform.discriminators import AdversaryConfig, Discriminators, _reflected, decimated

Array = NDArray[np.float64]
CONFIG = AdversaryConfig(periods=(2, 3), period_width=2, windows=(64, 36), window_width=2, rates=(1, 3), rate_width=4)


def adversary() -> Discriminators:
    torch.manual_seed(1)
    return Discriminators(CONFIG).double()


def wave(samples: int) -> Tensor:
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(samples), dtype=torch.float64)


def level(samples: int) -> Array:
    x = wave(samples)[0].numpy()
    x = x - x.mean()
    return 0.8 * x / (np.abs(x).max() + 1e-9)


def conv(x: Array, layer: nn.Module) -> Array:
    """[C, H, W] -> [O, H', W'], place by place."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.bias is not None
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    stride, padding = tuple(layer.stride), tuple(int(p) for p in layer.padding)
    if isinstance(layer, nn.Conv1d):
        weight, stride, padding = weight[:, :, None], (1, *stride), (0, *padding)
    x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2))
    outputs, inputs, kh, kw = weight.shape
    shape = outputs, (x.shape[1] - kh) // stride[0] + 1, (x.shape[2] - kw) // stride[1] + 1
    y = np.empty(shape)
    for o in range(outputs):
        first = o // (outputs // layer.groups) * inputs
        for h in range(shape[1]):
            for w in range(shape[2]):
                top, left = h * stride[0], w * stride[1]
                y[o, h, w] = (x[first : first + inputs, top : top + kh, left : left + kw] * weight[o]).sum() + bias[o]
    return y


def through(x: Array, layers: nn.Module) -> list[Array]:
    maps = []
    for layer in layers.children():
        x = conv(x, layer)
        x = np.where(x > 0, x, 0.1 * x)
        maps.append(x)
    return maps


def same(tensor: Tensor, array: Array) -> None:
    got = tensor[0].detach().numpy()
    if got.ndim == 2:
        got = got[:, None]
    np.testing.assert_allclose(got, array, rtol=0, atol=1e-9)


def reflected(x: Array, left: int, right: int) -> Array:
    """Sample by sample, mirrored at the first and the last one."""
    last = len(x) - 1
    return np.array([x[last - abs(last - abs(i))] for i in range(-left, len(x) + right)])


@pytest.mark.parametrize("samples", [60, 61, 71])
def test_period(samples: int) -> None:
    network = adversary()
    for period in CONFIG.periods:
        member = network.members[f"period_{period}"]
        x = level(samples)
        padded = reflected(x, 0, period - samples % period)  # 60 is a multiple of both, and grows by a whole period
        rows = np.array(
            [[padded[row * period + column] for column in range(period)] for row in range(len(padded) // period)]
        )
        maps = through(rows[None], member.layers)  # type: ignore[arg-type]
        score, seen = member(torch.from_numpy(x)[None])
        for one, other in zip(seen, maps, strict=True):
            same(one, other)
        same(score, conv(maps[-1], member.head))  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [90, 91])
def test_rate(samples: int) -> None:
    network = adversary()
    for rate in CONFIG.rates:
        member = network.members[f"rate_{rate}"]
        x = level(samples)
        slow = x if rate == 1 else np.array([resampled(x, rate, i) for i in range(samples // rate)])
        maps = through(slow[None, None], member.layers)  # type: ignore[arg-type]
        score, seen = member(torch.from_numpy(x)[None])
        for one, other in zip(seen, maps, strict=True):
            same(one, other)
        same(score, conv(maps[-1], member.head))  # type: ignore[arg-type]


def resampled(x: Array, rate: int, index: int) -> float:
    """One sample at 1/rate: the windowed sinc around it, over samples that are repeated beyond the ends."""
    total = weights = 0.0
    for offset in range(-60 * rate, 60 * rate + 1):
        place = offset * 0.945 / rate
        if abs(place) < 24:
            weight = np.sinc(place) * np.cos(np.pi * place / 48) ** 2
            weights += weight
            total += weight * x[min(max(index * rate + offset, 0), len(x) - 1)]
    return float(total / weights)


@pytest.mark.parametrize("samples", [160, 171])
def test_window(samples: int) -> None:
    """Spectra by centred frames of the signal grown on both sides, without two frames at each end (`match_stride`)."""
    network = adversary()
    for window in CONFIG.windows:
        member = network.members[f"window_{window}"]
        hop, bins = window // 4, window // 2 + 1
        x = level(samples)
        frames = -(-samples // hop)
        grown = reflected(x, (window - hop) // 2, window - hop - (window - hop) // 2 + frames * hop - samples)
        centred = reflected(grown, window // 2, window // 2)
        taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        starts = range(2 * hop, 2 * hop + frames * hop, hop)
        kernel = np.exp(-2j * np.pi * np.outer(np.arange(bins), np.arange(window)) / window)
        spectrum = np.array([kernel @ (taper * centred[start : start + window]) for start in starts])
        both = np.stack([spectrum.real, spectrum.imag])
        maps: list[Array] = []
        tops: list[Array] = []
        for low, high, band in zip((0, 0.1, 0.25, 0.5, 0.75), (0.1, 0.25, 0.5, 0.75, 1), member.bands, strict=True):  # type: ignore[arg-type]
            maps += through(both[..., int(low * bins) : int(high * bins)], band)
            tops.append(maps[-1])
        score, seen = member(torch.from_numpy(x)[None])
        for one, other in zip(seen, maps, strict=True):
            same(one, other)
        same(score, conv(np.concatenate(tops, -1), member.head))  # type: ignore[arg-type]


def test_the_whole_sees_the_levelled_wave() -> None:
    network, samples = adversary(), 171
    x = torch.from_numpy(level(samples))[None]
    for seen, member in zip(network(wave(samples)), network.members.values(), strict=True):
        assert torch.allclose(seen.score, member(x)[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (5, 0), (7, 8)])
def test_reflection_and_its_gradient_against_torch(left: int, right: int) -> None:
    ours, theirs = wave(9).requires_grad_(), wave(9).requires_grad_()
    pull = torch.randn(1, 9 + left + right, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = _reflected(ours, left, right)
    expected = functional.pad(theirs, (left, right), mode="reflect")
    assert torch.equal(padded, expected)
    (padded * pull).sum().backward()
    (expected * pull).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)


def test_decimation_is_differentiated_rightly() -> None:
    x = wave(30).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: decimated(y, 3), (x,))

"""Overlap inference against the whole at once, with networks that depend on everything that they may depend on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from partimento.waveform.restore import Cuts, WaveToWave, beside, restore_stream

sys.path.append(str(Path(__file__).parents[1] / "play"))
from restorable import TINY, network

Wave = NDArray[np.float32]


class Fir(nn.Module):
    """A convolution, padded by reflection, of frames on a grid: what differs with the place in a frame shows a cut at
    the wrong place, and what differs with the edge an edge in the wrong place."""

    def __init__(self, context: int, multiple: int, bias: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(context * 1000 + multiple)
        self.context, self.multiple, self.bias = context, multiple, bias
        self.taps = nn.Parameter(torch.randn(1, 1, 2 * context + 1, generator=generator) / (context + 1))
        self.gains = nn.Parameter(1 + torch.rand(multiple, generator=generator))
        self.largest = 0

    def forward(self, damaged_BN: Tensor) -> Tensor:
        count = damaged_BN.shape[1]
        self.largest = max(self.largest, damaged_BN.numel())
        mode = "reflect" if count > self.context else "replicate"
        padded_BN = nn.functional.pad(damaged_BN[:, None], (self.context, self.context), mode=mode)
        made_BN = nn.functional.conv1d(padded_BN, self.taps)[:, 0]
        return made_BN * self.gains.repeat(-(-count // self.multiple))[:count] + self.bias


def noise(channels: int, count: int, seed: int = 0) -> Wave:
    return np.random.default_rng(seed).uniform(-1, 1, (channels, count)).astype(np.float32)


def in_blocks(wave_CN: Wave, *sizes: int) -> Iterator[Wave]:
    start = number = 0
    while start < wave_CN.shape[1]:
        yield wave_CN[:, start : start + sizes[number % len(sizes)]]
        start, number = start + sizes[number % len(sizes)], number + 1


def streamed(network: WaveToWave, wave_CN: Wave, *sizes: int, core: int) -> Wave:
    return np.concatenate(list(restore_stream(network, in_blocks(wave_CN, *sizes), core=core)), axis=1)


@torch.no_grad()
def whole(network: WaveToWave, wave_CN: Wave) -> Wave:
    return network(torch.from_numpy(wave_CN)).numpy()


def difference_db(made: Wave, wanted: Wave) -> float:
    """Peak of the difference to the peak of what was wanted."""
    assert made.shape == wanted.shape and made.dtype == np.float32
    return float(20 * np.log10(np.abs(made - wanted).max() / np.abs(wanted).max() + 1e-12))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 3000),
    channels=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=4),
    core=st.integers(1, 700),
    context=st.integers(0, 90),
    multiple=st.integers(1, 64),
)
def test_chunks_are_as_the_whole(
    count: int, channels: int, sizes: list[int], core: int, context: int, multiple: int
) -> None:
    network, wave_CN = Fir(context, multiple), noise(channels, count)
    assert difference_db(streamed(network, wave_CN, *sizes, core=core), whole(network, wave_CN)) < -110


@pytest.mark.parametrize("net", sorted(TINY))
@pytest.mark.parametrize("residual", [True, False])
def test_every_network_is_without_a_seam(net: str, residual: bool) -> None:
    made = network(net, residual=residual)
    wave_CN = noise(2, 6 * made.context + 12345)
    wanted = whole(made, wave_CN)
    assert np.abs(wanted - wave_CN).max() > 0.01, "it does something"
    found = streamed(made, wave_CN, 4000, 77, 9001, core=3 * made.multiple)
    assert difference_db(found, wanted) < -100


def test_the_oracle_hears_less_context_and_other_cuts() -> None:
    wave_CN, wanted = noise(1, 20000), Fir(50, 16)
    short, shifted = Fir(50, 16), Fir(50, 16)
    short.context, shifted.multiple = 40, 10
    # The network itself stays as it was; what overlap inference is told of it is wrong.
    short.forward = shifted.forward = wanted.forward  # type: ignore[method-assign]
    for wrong in (short, shifted):
        assert difference_db(streamed(wrong, wave_CN, 5000, core=1000), whole(wanted, wave_CN)) > -60


def test_windows_together_are_as_one_by_one() -> None:
    network, wave_CN = Fir(30, 8), noise(2, 60000)
    made = streamed(network, wave_CN, 60000, core=256)
    assert network.largest > 20 * Cuts.of(network, 256).window, "several windows were one batch"
    assert difference_db(made, whole(network, wave_CN)) < -110


def test_memory_does_not_grow_with_the_stream() -> None:
    network = Fir(100, 32)
    sizes, largest = [], []
    for seconds in (4, 40):
        network.largest = 0
        wave_CN = noise(1, 16000)
        lengths = [m.shape[1] for m in restore_stream(network, (wave_CN for _ in range(4 * seconds)), core=8192)]
        sizes.append(max(lengths))
        largest.append(network.largest)
        assert sum(lengths) == 4 * seconds * 16000
    assert sizes[0] == sizes[1] and largest[0] == largest[1]


def test_silence_is_silent_whatever_the_network_adds() -> None:
    network, wave_CN = Fir(20, 4, bias=0.01), noise(2, 4000)
    wave_CN[0] = 0
    wave_CN[1, 1000:2000] = 0
    made = streamed(network, wave_CN, 333, core=500)
    assert not made[0].any() and not made[1, 1020:1980].any()
    kept = np.r_[0:1020, 1980:4000]
    assert np.abs(made[1, kept] - whole(network, wave_CN)[1, kept]).max() < 1e-5
    assert np.abs(made[1, [1019, 1980]]).min() > 0.001, "a sample that something reaches is the network's"


def test_nothing_becomes_nothing() -> None:
    assert list(restore_stream(Fir(3, 2), [])) == []
    assert list(restore_stream(Fir(3, 2), [np.zeros((2, 0), np.float32)])) == []


@pytest.mark.parametrize("more", [-700, 0, 300])
def test_beside_cuts_alike(more: int) -> None:
    """What lags, jumps and ends elsewhere is still beside what it was made of."""
    wave_CN = noise(2, 5000)

    def late(blocks: Iterator[Wave]) -> Iterator[Wave]:
        whole_CN = np.concatenate(list(blocks), axis=1)
        changed_CN = np.concatenate([whole_CN * 2, noise(2, 1000)], axis=1)[:, : 5000 + more]
        yield from in_blocks(changed_CN, 1, 1999)

    was, made = map(list, zip(*beside(in_blocks(wave_CN, 700), late), strict=True))
    assert [one.shape for one in was] == [one.shape for one in made]
    assert np.array_equal(np.concatenate(was, axis=1), wave_CN)
    end = min(5000, 5000 + more)
    assert np.array_equal(np.concatenate(made, axis=1)[:, :end], wave_CN[:, :end] * 2)
    assert not np.concatenate(made, axis=1)[:, end:].any()

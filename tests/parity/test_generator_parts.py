"""Parts of the generators against closed forms, slow loops, torch's own transform and transformers' DAC."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers.models.dac.modeling_dac import DacResidualUnit

from partimento.waveform.generators.common import Snake, shuffle, unshuffle
from partimento.waveform.generators.dac import Unit
from partimento.waveform.generators.resample import Down, Up
from partimento.waveform.generators.spectral import analyse, synthesize


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_snake_is_its_closed_form() -> None:
    """float64: 1e-7 (1e-9 is added to alpha, as DAC does); float32: 2e-5, of values of order 10."""
    alphas, x = [0.1, 1.0, 7.5], 5 * noise(2, 3, 40)
    snake = Snake(3).double()
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor(alphas)[None, :, None])
        expected = torch.tensor(
            [[[v + math.sin(a * v) ** 2 / a for v in row] for a, row in zip(alphas, item, strict=True)] for item in x],
            dtype=torch.float64,
        )
        torch.testing.assert_close(snake(x), expected, rtol=0, atol=1e-7)
        torch.testing.assert_close(snake.float()(x.float()).double(), expected, rtol=0, atol=2e-5)


def test_a_residual_unit_is_that_of_transformers_dac() -> None:
    """Same weights: 1e-5."""
    torch.manual_seed(0)
    for dilation in (1, 3, 9):
        theirs, ours = DacResidualUnit(6, dilation), Unit(6, dilation)
        for snake in (theirs.snake1, theirs.snake2):
            torch.nn.init.uniform_(snake.alpha, 0.1, 2.0)
        names = {"0.alpha": "snake1.alpha", "2.alpha": "snake2.alpha"}
        names |= {f"{i}.{kind}": f"conv{n}.{kind}" for i, n in ((1, 1), (3, 2)) for kind in ("weight", "bias")}
        state = theirs.state_dict()
        ours.load_state_dict({f"layers.{our}": state[their] for our, their in names.items()})
        x = noise(2, 6, 100).float()
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pixel_shuffles_are_those_of_a_slow_loop(factor: int) -> None:
    """Exactly; torch.nn.functional.pixel_shuffle of columns of pixels has the channels in the same order."""
    x = noise(2, 3, 4 * factor)
    found = unshuffle(x, factor)
    for channel in range(3):
        for sample in range(4 * factor):
            place = found[:, channel * factor + sample % factor, sample // factor]
            assert torch.equal(place, x[:, channel, sample])
    assert torch.equal(shuffle(found, factor), x)
    # A wave is a picture whose rows are all alike.
    picture = found[:, :, None].unflatten(1, (3, 1, factor)).expand(-1, -1, factor, -1, -1, -1).flatten(1, 3)
    assert torch.equal(torch.nn.functional.pixel_shuffle(picture, factor)[:, :, 0], x)


@pytest.mark.parametrize(("narrow", "broad", "factor"), [(4, 8, 2), (4, 8, 4), (4, 8, 8), (4, 16, 4)])
def test_ways_around_are_means_of_groups_and_repetitions(narrow: int, broad: int, factor: int) -> None:
    """Convolutions silenced; against loops, to 1e-12."""
    group = narrow * factor // broad
    for layer in (down := Down(narrow, broad, factor).double(), up := Up(broad, narrow, factor).double()):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    x, y = noise(1, narrow, 3 * factor), noise(1, broad, 3)
    fine, coarse = down(x).detach(), up(y).detach()
    for place in range(3):
        for channel in range(broad):
            taken = [divmod(channel * group + member, factor) for member in range(group)]
            mean = sum(float(x[0, source, place * factor + offset]) for source, offset in taken) / group
            assert abs(float(fine[0, channel, place]) - mean) < 1e-12
        for channel in range(narrow):
            for offset in range(factor):
                source = channel // group * factor + offset
                assert float(coarse[0, channel, place * factor + offset]) == float(y[0, source, place])


def test_the_transform_is_torchs_and_its_inverse_too() -> None:
    """float64, 1e-12: torch.stft with a periodic Hann window on the same padded wave, times 2 / the window's sum; a
    spectrum of no wave goes back as by torch.istft (inside, where it can be told)."""
    hop, samples = 16, 20 * 16
    window = 4 * hop
    taper = torch.hann_window(window, dtype=torch.float64)
    wave = noise(2, samples)
    padded = torch.nn.functional.pad(wave, (window - hop, window - hop))
    theirs = torch.stft(padded, window, hop, window=taper, center=False, return_complex=True).transpose(1, 2)
    torch.testing.assert_close(analyse(wave, taper), theirs * 2 / taper.sum(), rtol=0, atol=1e-12)

    spectrum = torch.complex(noise(2, 23, 33, seed=1), noise(2, 23, 33, seed=2))
    unscaled = spectrum.transpose(1, 2) * taper.sum() / 2
    # The first of torch's frames is centred on its first sample, the first of ours ends one hop behind it.
    theirs = torch.istft(unscaled, window, hop, window=taper, center=True)[:, hop : hop + samples]
    torch.testing.assert_close(synthesize(spectrum, taper), theirs, rtol=0, atol=1e-12)

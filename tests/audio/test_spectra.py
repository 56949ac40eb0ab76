"""Spectra against closed forms, slow direct sums in float64 and an independent filterbank."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partimento.audio import spectra
from partimento.audio.spectra import (
    MEL7_FLOOR,
    MEL7_MELS,
    MEL7_WINDOWS,
    imdct,
    log_mel,
    mdct,
    mdst,
    mel7,
    mel_filters,
    si_sdr,
    stft,
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_stft_is_the_direct_sum() -> None:
    wave = noise(1, 200).numpy()[0]
    window, hop = 32, 8
    padded = np.pad(wave, window // 2, mode="reflect")
    n = np.arange(window)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
    found = stft(torch.from_numpy(wave)[None], window, hop)[0].numpy()
    assert found.shape == (17, 1 + 200 // 8)
    for frame in (0, 7, 25):
        for k in (0, 3, 16):
            piece = padded[frame * hop : frame * hop + window]
            assert abs((piece * taper * np.exp(-2j * np.pi * k * n / window)).sum() - found[k, frame]) < 1e-12


@pytest.mark.parametrize(("window", "mels"), list(zip(MEL7_WINDOWS, MEL7_MELS, strict=True)))
def test_filters_equal_an_independent_bank(window: int, mels: int) -> None:
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(
        window // 2 + 1,
        mels,
        0.0,
        22050.0,
        44100,
        norm="slaney",
        mel_scale="slaney",
        triangularize_in_mel_space=False,
    )
    np.testing.assert_allclose(mel_filters(44100, window, mels).numpy(), theirs.T, rtol=1e-9, atol=1e-15)


def test_filters_have_unit_area_in_hz() -> None:
    filters = mel_filters(44100, 1 << 17, 40)
    area = filters.sum(1) * 22050 / (1 << 16)
    assert torch.allclose(area, torch.ones(40, dtype=torch.float64), atol=1e-3)


@pytest.mark.parametrize(("window", "mels", "samples"), [(32, 5, 100), (32, 5, 9), (256, 50, 777), (2048, 320, 4096)])
def test_log_mel_and_its_gradient_are_those_of_the_formula(window: int, mels: int, samples: int) -> None:
    wave = noise(2, samples)
    wave[:, : samples // 2] *= 1e-9  # partly under the floor, where nothing pulls
    wave.requires_grad_()
    magnitude = stft(wave, window, window // 4).abs()
    expected = (mel_filters(44100, window, mels) @ magnitude).clamp(min=MEL7_FLOOR).log10()
    found = log_mel(wave, 44100, window, mels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    pull = noise(*expected.shape, seed=1)
    (theirs,) = torch.autograd.grad(expected, wave, pull)
    (ours,) = torch.autograd.grad(found, wave, pull)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    assert float(theirs.abs().max()) > 0


def test_silence_has_no_gradient() -> None:
    wave = torch.zeros(1, 3000, requires_grad=True)
    (gradient,) = torch.autograd.grad(mel7(wave, noise(1, 3000, dtype=torch.float32), 44100).sum(), wave)
    assert float(gradient.abs().max()) == 0


def test_mel7_of_a_gain_is_seven_times_its_log() -> None:
    wave = 100 * noise(2, 8192)  # far above the floor everywhere
    assert torch.equal(mel7(wave, wave, 44100), torch.zeros(2, dtype=torch.float64))
    assert mel7(wave, wave * 10, 44100).tolist() == pytest.approx([7.0, 7.0], rel=1e-9)


def test_mel7_of_silence_counts_from_the_floor() -> None:
    wave = noise(1, 4096)
    expected = sum(float((log_mel(wave, 44100, w, m) + 5).mean()) for w, m in zip(MEL7_WINDOWS, MEL7_MELS, strict=True))
    assert float(mel7(wave, torch.zeros_like(wave), 44100)) == pytest.approx(expected)


def test_mel7_refuses_unequal_lengths_and_takes_one_sample() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        mel7(noise(1, 100), noise(1, 101), 44100)
    assert float(mel7(noise(1, 1), noise(1, 1, seed=1), 44100)) > 0


def direct_mdct(wave: np.ndarray, hop: int, basis: str) -> np.ndarray:
    """The textbook sum over the 2 hop samples under each frame's window, with the rectangular edge at both ends."""
    frames = -(-len(wave) // hop)
    padded = np.zeros((frames + 1) * hop)
    padded[hop // 2 : hop // 2 + len(wave)] = wave
    n, k = np.arange(2 * hop), np.arange(hop)
    # Local time runs from half a hop before the frame; the fold points are at hop / 2 and 3 hop / 2.
    phase = np.pi / hop * np.outer(k + 0.5, n + 0.5 - hop / 2)
    table = math.sqrt(2 / hop) * (np.cos(phase) if basis == "cos" else np.sin(phase))
    out = np.zeros((frames, hop))
    for t in range(frames):
        window = np.sin(np.pi / (2 * hop) * (n + 0.5))
        if t == 0:
            window[:hop] = n[:hop] >= hop // 2
        if t == frames - 1:
            window[hop:] = n[:hop] < hop // 2
        out[t] = table @ (window * padded[t * hop : (t + 2) * hop])
    return out


@pytest.mark.parametrize("samples", [1, 16, 17, 48, 100])
def test_mdct_and_mdst_are_the_direct_sums(samples: int) -> None:
    wave = noise(1, samples)
    np.testing.assert_allclose(mdct(wave, 16)[0].numpy(), direct_mdct(wave[0].numpy(), 16, "cos"), atol=1e-12)
    np.testing.assert_allclose(mdst(wave, 16)[0].numpy(), direct_mdct(wave[0].numpy(), 16, "sin"), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(1, 300), hop=st.sampled_from([2, 8, 32]), seed=st.integers(0, 5))
def test_mdct_reconstructs_perfectly_and_keeps_energy(samples: int, hop: int, seed: int) -> None:
    wave = noise(2, samples, seed=seed)
    coefficients = mdct(wave, hop)
    assert coefficients.shape == (2, -(-samples // hop), hop)
    back = imdct(coefficients)
    assert torch.allclose(back[:, :samples], wave, atol=1e-12)
    assert float(back[:, samples:].abs().sum()) < 1e-10
    assert torch.allclose(coefficients.square().sum(), wave.square().sum())


def test_mdct_reconstructs_in_float32() -> None:
    wave = noise(1, 44100, dtype=torch.float32)
    assert float((imdct(mdct(wave, 512))[:, :44100] - wave).abs().max()) < 2e-5


def test_mdct_with_mdst_shows_a_steady_tone_steadily() -> None:
    wave = torch.sin(2 * math.pi * 2000.3 / 44100 * torch.arange(44100, dtype=torch.float64))[None]
    inner = slice(2, -2)
    real, imaginary = mdct(wave, 512)[0, inner], mdst(wave, 512)[0, inner]
    energy = (real.square() + imaginary.square()).sum(1)
    assert float(energy.std() / energy.mean()) < 0.01 < float(real.square().sum(1).std() / energy.mean())


def test_si_sdr_closed_form() -> None:
    reference, other = noise(1, 4000), noise(1, 4000, seed=1)
    reference = reference - reference.mean()
    other = other - other.mean()
    other = other - (other * reference).sum() / reference.square().sum() * reference
    other = other * reference.norm() / other.norm()
    assert float(si_sdr(3 * (reference + 0.1 * other), reference)) == pytest.approx(20.0, abs=1e-9)


def test_what_is_cached_in_inference_mode_serves_training() -> None:
    """An evaluation may be the first to ask for a window, and a training in the same process the next."""
    for made in (spectra._hann, spectra._mel_bands, spectra._dct4, spectra._dst4):
        made.cache_clear()
    with torch.inference_mode():
        mel7(torch.zeros(1, 3000), torch.zeros(1, 3000), 32000)
        mdct(torch.zeros(1, 64), 16), mdst(torch.zeros(1, 64), 16)
    wave = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (mel7(wave, torch.zeros(1, 3000), 32000).sum() + mdct(wave, 16).square().sum() + mdst(wave, 16).sum()).backward()
    assert wave.grad is not None and wave.grad.isfinite().all()

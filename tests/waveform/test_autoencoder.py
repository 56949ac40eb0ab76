"""The autoencoder: exact lengths, finite reach, independence of batch mates, and that it can learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partimento.audio.spectra import mel7
from partimento.keyed import torch_generator
from partimento.waveform.autoencoder import Autoencoder, AutoencoderConfig
from partimento.waveform.losses import codec_loss

TINY = AutoencoderConfig(hop=32, width=16, encoder_layers=1, decoder_layers=2, latent=4, codebooks=3, cardinality=16)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny() -> Autoencoder:
    torch.manual_seed(1)
    network = Autoencoder(TINY)
    network.set_statistics(noise(8, 1024))
    with torch.no_grad():
        network.quantizer.start(network.latent(noise(8, 1024)).flatten(0, 1), torch_generator("start"))
    return network.eval()


NETWORK = tiny()


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(1, 200))
def test_frames_and_samples_are_counted_exactly(samples: int) -> None:
    wave = noise(2, samples)
    with torch.no_grad():
        codes = NETWORK.encode(wave)
        assert codes.shape == (2, math.ceil(samples / 32), 3)
        assert NETWORK.decode(codes).shape == (2, codes.shape[1] * 32)
        assert NETWORK(wave).wave_BN.shape == wave.shape
        assert torch.equal(NETWORK(wave).codes_BTK, codes)


def test_no_frame_sees_further_than_the_context() -> None:
    network, frames, at = NETWORK.double(), 40, 20
    wave = noise(1, frames * 32).double()
    other = wave.clone()
    other[:, at * 32 : (at + 1) * 32] += 0.3
    reach = network.context_frames
    assert reach == 1 + 3 * 2
    with torch.no_grad():
        moved = (network.latent(wave) - network.latent(other)).abs().amax((0, 2)) > 0
        codes = network.encode(wave)
        changed = codes.clone()
        changed[:, at] = (changed[:, at] + 1) % 16
        heard = (network.decode(codes) - network.decode(changed)).reshape(frames, 32).abs().amax(1) > 0
    network.float()
    for touched in (moved, heard):
        where = touched.nonzero().flatten().tolist()
        assert at - reach <= min(where) and max(where) <= at + reach
    assert heard.nonzero().flatten().tolist() == list(range(at - reach, at + reach + 1))  # and the bound is tight


def test_an_item_does_not_depend_on_its_batch_mates() -> None:
    wave = noise(3, 500).double()
    network = NETWORK.double()
    with torch.no_grad():
        together = network.encode(wave)
        for b in range(3):
            assert torch.equal(network.encode(wave[b : b + 1])[0], together[b])
    network.float()


def test_float64_is_the_same_network() -> None:
    wave = noise(2, 700)
    with torch.no_grad():
        single = NETWORK.latent(wave)
        double = NETWORK.double().latent(wave.double())
    NETWORK.float()
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-4)


def test_silence_and_loud_noise_stay_finite() -> None:
    with torch.no_grad():
        for wave in (torch.zeros(1, 100), 1e3 * noise(1, 100), torch.full((1, 64), 1.0)):
            assert torch.isfinite(NETWORK(wave).wave_BN).all()


def test_statistics_leave_silence_out() -> None:
    network = Autoencoder(TINY)
    network.set_statistics(torch.cat([noise(4, 1024), torch.zeros(4, 1024)], 1))
    expected = math.log(0.1)  # white noise of deviation 0.1 through an orthonormal transform
    assert float(network.mean_M.mean()) == pytest.approx(expected, abs=0.3)
    with pytest.raises(ValueError, match="silence"):
        network.set_statistics(torch.zeros(1, 256))


def test_loss_is_the_weighted_sum() -> None:
    made, target = noise(2, 3000), noise(2, 3000, seed=1)
    parts = codec_loss(made, target, torch.tensor(0.5), 44100, wave_weight=7.0, commit_weight=0.2)
    expected = mel7(made, target, 44100) + 7 * (made - target).abs().mean(1) + 0.1
    assert torch.allclose(parts.total_B, expected)


def test_bf16_leaves_transforms_and_quantizer_in_full_precision() -> None:
    seen: dict[str, torch.dtype] = {}
    network = tiny().train()
    network.decoder.leave.register_forward_hook(lambda *args: seen.update(leave=args[2].dtype))
    network.decoder.blocks[0].up.register_forward_hook(lambda *args: seen.update(up=args[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        made = network(noise(1, 320))
    assert seen == {"up": torch.bfloat16, "leave": torch.float32}
    assert made.wave_BN.dtype == torch.float32
    assert network.quantizer._notes is not None and network.quantizer._notes.residuals_KND.dtype == torch.float32


def test_it_learns_a_tone() -> None:
    torch.manual_seed(0)
    network = tiny().train()
    time = torch.arange(2048) / 44100
    wave = 0.3 * torch.sin(2 * math.pi * 1500 * time)[None]
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for step in range(60):
        made = network(wave)
        loss = codec_loss(made.wave_BN, wave, made.commitment, 44100, wave_weight=50.0, commit_weight=0.25)
        optimizer.zero_grad()
        loss.total_B.sum().backward()
        optimizer.step()
        network.quantizer.update(0.9, 0.03, torch_generator("tone", step))
        losses.append(float(loss.mel7_B.detach()))
    assert losses[-1] < 0.6 * losses[0]

"""The autoencoder, of every kind: exact lengths, finite reach, independence of batch mates, frozen codes, learning."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partimento.audio.spectra import mel7
from partimento.keyed import torch_generator
from partimento.waveform import heads
from partimento.waveform.autoencoder import TRAINING_ONLY, Autoencoder, AutoencoderConfig
from partimento.waveform.dac import strides_of

TINY = AutoencoderConfig(hop=32, width=16, encoder_layers=1, decoder_layers=2, latent=4, codebooks=3, cardinality=16)
KINDS = {
    "mdct": TINY,
    "mdct to stft": replace(TINY, decoder="stft", hop=24),
    "mdct to dual": replace(TINY, decoder="dual", hop=24),
    "mdct to dac, factorised": replace(TINY, decoder="dac", lookup="factorised", factor=3),
    "dac to mdct": replace(TINY, encoder="dac"),
    "dac to stft": replace(TINY, encoder="dac", decoder="stft", hop=24),
    "dac, factorised": replace(TINY, encoder="dac", decoder="dac", lookup="factorised", factor=3, hop=120),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(config: AutoencoderConfig = TINY) -> Autoencoder:
    torch.manual_seed(1)
    network = Autoencoder(config)
    wave = noise(8, 32 * config.hop)
    network.set_statistics(wave)
    with torch.no_grad():
        network.quantizer.start(network.latent(wave).flatten(0, 1), torch_generator("start"))
    return network.eval()


@cache
def network_of(kind: str, double: bool = False) -> Autoencoder:
    network = tiny(KINDS[kind])
    return network.double() if double else network


@every_kind
@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1, 200))
@torch.no_grad()
def test_frames_and_samples_are_counted_exactly(kind: str, samples: int) -> None:
    network = network_of(kind)
    wave, hop = noise(2, samples), network.config.hop
    codes = network.encode(wave)
    assert codes.shape == (2, math.ceil(samples / hop), 3)
    assert network.decode(codes).shape == (2, codes.shape[1] * hop)
    assert network(wave).wave_BN.shape == wave.shape
    assert torch.equal(network(wave).codes_BTK, codes)


@every_kind
def test_the_context_is_what_a_frame_sees_and_no_more(kind: str) -> None:
    """By gradients, which stay above 0 where an influence is too small to move a sum of float64."""
    network = network_of(kind, double=True)
    hop, reach = network.config.hop, network.context_frames
    frames, at = 4 * reach, 2 * reach
    wave = noise(1, frames * hop).double().requires_grad_()
    latent = network.latent(wave)
    latent[:, at].square().sum().backward()
    heard = latent.detach().requires_grad_()
    network.synthesize(heard)[:, at * hop : (at + 1) * hop].square().sum().backward()
    network.zero_grad()
    seen = [wave.grad.reshape(frames, hop).abs().amax(1) > 0, heard.grad[0].abs().amax(1) > 0]
    edges = [abs(place - at) for places in seen for place in places.nonzero().flatten().tolist()]
    assert max(edges) == reach


@every_kind
@torch.no_grad()
def test_what_lies_further_away_than_the_context_changes_nothing(kind: str) -> None:
    network = network_of(kind, double=True)
    hop, reach = network.config.hop, network.context_frames
    wave = noise(1, (2 * reach + 6) * hop).double()
    other = wave.clone()
    other[:, : 2 * hop] = -wave[:, : 2 * hop]
    one, two = network.encode(wave), network.encode(other)
    assert torch.equal(one[:, 2 + reach :], two[:, 2 + reach :]) and not torch.equal(one, two)
    changed = one.clone()
    changed[:, :2] = (changed[:, :2] + 1) % 16
    one, two = network.decode(one), network.decode(changed)
    assert torch.equal(one[:, (2 + reach) * hop :], two[:, (2 + reach) * hop :]) and not torch.equal(one, two)


def test_the_context_of_the_shipped_network() -> None:
    assert Autoencoder(AutoencoderConfig()).context_frames == 1 + 3 * 5


@every_kind
@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch_mates(kind: str) -> None:
    network, wave = network_of(kind, double=True), noise(3, 500).double()
    together = network.encode(wave)
    for b in range(3):
        assert torch.equal(network.encode(wave[b : b + 1])[0], together[b])


@every_kind
@torch.no_grad()
def test_float64_is_the_same_network(kind: str) -> None:
    wave = noise(2, 700)
    single, double = network_of(kind).latent(wave), network_of(kind, double=True).latent(wave.double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-4)


@every_kind
@torch.no_grad()
def test_silence_and_loud_noise_stay_finite(kind: str) -> None:
    for wave in (torch.zeros(1, 100), 1e3 * noise(1, 100), torch.full((1, 64), 1.0)):
        assert torch.isfinite(network_of(kind)(wave).wave_BN).all()


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1, 400), hop=st.sampled_from([2, 24, 32]), span=st.sampled_from([2, 4, 8]))
def test_stft_frames_are_inverted_exactly(samples: int, hop: int, span: int) -> None:
    wave = noise(2, samples).double()
    spectrum = heads.frames(wave, hop, span)
    frames = math.ceil(samples / hop)
    assert spectrum.shape == (2, frames, span * hop // 2 + 1)
    back = heads.overlap_add(spectrum, hop, span)
    assert back.shape == (2, frames * hop)
    assert float((back[:, :samples] - wave).abs().max()) < 1e-14


@pytest.mark.parametrize("span", [2, 8])
def test_stft_bins_have_the_size_of_the_wave(span: int) -> None:
    power = heads.frames(noise(1, 64 * 400), 64, span)[:, 4:-4].abs().square().mean()
    assert float(power.sqrt()) == pytest.approx(0.1, rel=0.02)


def test_low_bins_alone_are_a_low_pass() -> None:
    hop, samples = 64, 64 * 60
    time = torch.arange(samples, dtype=torch.float64)
    low, high = torch.sin(0.1 * time)[None], torch.sin(2.0 * time)[None]
    lowest = heads.frames(low + high, hop, 8)[..., : hop + 1]
    heard = heads.overlap_add(lowest, hop, 8)[:, 8 * hop : -8 * hop]
    assert float((heard - low[:, 8 * hop : -8 * hop]).abs().max()) < 1e-4


def test_statistics_leave_silence_out() -> None:
    for decoder, names in (
        ("mdct", ["mean_M"]),
        ("stft", ["mean_M", "mean_F"]),
        ("dual", ["mean_M", "mean_F", "mean_L"]),
    ):
        network = Autoencoder(replace(TINY, decoder=decoder))
        network.set_statistics(torch.cat([noise(4, 4096), torch.zeros(4, 1024)], 1))
        for name in names:  # white noise of deviation 0.1 through an orthonormal transform
            assert float(getattr(network, name).mean()) == pytest.approx(math.log(0.1), abs=0.5)
        before = {name: getattr(network, name).clone() for name in names}
        network.set_statistics(noise(4, 1024) * 5)
        assert all(torch.equal(before[name], getattr(network, name)) for name in names)
    with pytest.raises(ValueError, match="silence"):
        Autoencoder(TINY).set_statistics(torch.zeros(1, 256))
    only_samples = Autoencoder(KINDS["dac, factorised"])
    only_samples.set_statistics(torch.zeros(1, 256))
    assert not [name for name in only_samples.state_dict() if name.startswith(("mean", "scale"))]


def test_networks_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="even hop"):
        AutoencoderConfig(hop=441)
    with pytest.raises(ValueError, match="strides"):
        AutoencoderConfig(hop=11, decoder="dac")
    with pytest.raises(ValueError, match="multiple of 16"):
        AutoencoderConfig(width=100, encoder="dac")
    with pytest.raises(ValueError, match="one of mdct, dac"):
        AutoencoderConfig(encoder="stft")
    assert [strides_of(hop) for hop in (480, 256)] == [(2, 5, 6, 8), (2, 2, 8, 8)]


def test_an_older_configuration_is_the_mdct_network() -> None:
    tree = TINY.to_json()
    for name in ("encoder", "decoder", "lookup", "factor"):
        del tree[name]
    assert AutoencoderConfig.from_json(tree) == TINY


def test_what_decides_codes() -> None:
    for kind, config in KINDS.items():
        network = tiny(config).double()
        decisive, state = network.codes_state(), network.state_dict()
        wave = noise(1, 20 * config.hop, seed=5).double()
        codes = network.encode(wave)
        with torch.no_grad():
            for name in state.keys() - decisive.keys():
                if state[name].is_floating_point():
                    state[name].mul_(1.7)
        assert torch.equal(network.encode(wave), codes), kind
        assert ("mean_M" in decisive) == (config.encoder == "mdct") and not decisive.keys() & set(TRAINING_ONLY)
        with torch.no_grad():
            for tensor in decisive.values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)))
        assert not torch.equal(network.encode(wave), codes), kind


@pytest.mark.parametrize("kind", ["mdct to stft", "dac, factorised"])
def test_frozen_codes_stay_while_the_decoder_learns(kind: str) -> None:
    network = tiny(KINDS[kind])
    network.freeze_codes()
    network.train()
    kept = {name: tensor.clone() for name, tensor in network.codes_state().items()}
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2, weight_decay=0.1)
    wave, losses = noise(2, 800), []
    for step in range(12):
        made = network(wave, torch.tensor([1, 3]))
        loss = (made.wave_BN - wave).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert network.quantizer.update(0.9, 0.03, torch_generator("frozen", step)) == 0
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.codes_state().items())
    assert len(trained) == len(list(network.decoder.parameters()))


@every_kind
def test_bf16_leaves_transforms_snake_and_quantizer_in_full_precision(kind: str) -> None:
    seen: dict[str, torch.dtype] = {}
    network = tiny(KINDS[kind]).train()
    network.decoder.leave.register_forward_hook(lambda *args: seen.update(leave=args[2].dtype))
    if KINDS[kind].decoder == "dac":
        unit = network.decoder.levels[0].units[0]
        unit.wide.register_forward_hook(lambda *args: seen.update(inner=args[2].dtype))
        unit.first_snake.register_forward_hook(lambda *args: seen.update(snake=args[2].dtype))
    else:
        network.decoder.blocks[0].up.register_forward_hook(lambda *args: seen.update(inner=args[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        made = network(noise(1, 320))
    assert seen.pop("inner") == torch.bfloat16
    assert set(seen.values()) == {torch.float32}
    assert made.wave_BN.dtype == made.commitment.dtype == torch.float32


@pytest.mark.parametrize("kind", ["mdct", "mdct to stft", "dac, factorised"])
def test_it_learns_a_tone(kind: str) -> None:
    network = tiny(KINDS[kind]).train()
    time = torch.arange(2048) / 44100
    wave = 0.3 * torch.sin(2 * math.pi * 1500 * time)[None]
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for step in range(60):
        made = network(wave)
        distance = mel7(made.wave_BN, wave, 44100).sum()
        loss = distance + 50.0 * (made.wave_BN - wave).abs().mean() + 0.25 * made.commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        network.quantizer.update(0.9, 0.03, torch_generator("tone", step))
        losses.append(float(distance.detach()))
    assert losses[-1] < 0.6 * losses[0]

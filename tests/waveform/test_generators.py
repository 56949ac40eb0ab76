"""Generators: exact lengths, exact reach, chunks equal to the whole, identity at the start, precision, gradients."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from partimento.waveform.generators import Generator, GeneratorConfig, make_generator
from partimento.waveform.generators.common import DESIGNS, Snake
from partimento.waveform.generators.spectral import analyse, synthesize

TINY: dict[str, dict[str, Any]] = {
    "spectral": {"width": 16, "blocks": 2, "hop": 16},
    "dac": {"width": 2, "strides": [2, 3], "blocks": 2, "stem": 2},
    "convnext": {"width": 4, "strides": [4, 2], "blocks": 1, "stem": 4},
    "patch": {"width": 4, "strides": [2, 4], "blocks": 2, "stem": 4},
    "melgan": {"width": 4, "strides": [4, 2], "blocks": 2, "stem": 4},
}
NETS = list(TINY)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(net: str, **changes: Any) -> Generator:
    """With a head that adds something, and Snakes that differ from channel to channel."""
    torch.manual_seed(3)
    network = make_generator(GeneratorConfig.of(net, **{**TINY[net], **changes}))
    for name, parameter in network.named_parameters():
        if name.startswith("head") and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
        if name.endswith("alpha"):
            nn.init.uniform_(parameter, 0.5, 2.0)
    return network.eval()


@pytest.mark.parametrize("net", NETS)
def test_any_length_is_kept(net: str) -> None:
    network = tiny(net)
    multiple = network.multiple
    with torch.no_grad():
        for samples in (1, 2, 441, 1000, multiple - 1, multiple, multiple + 1, 20011):
            made = network(noise(2, samples))
            assert made.shape == (2, samples) and made.isfinite().all()
            assert not torch.equal(made, noise(2, samples))


@pytest.mark.parametrize("net", NETS)
def test_a_residual_network_begins_as_the_identity_and_another_does_not(net: str) -> None:
    wave = noise(2, 777)
    assert torch.equal(make_generator(GeneratorConfig.of(net, **TINY[net]))(wave), wave)
    other = make_generator(GeneratorConfig.of(net, **TINY[net], residual=False))(wave)
    assert (other - wave).abs().max() > 1e-3


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_no_sample_sees_further_than_the_context_and_one_sees_as_far(net: str, residual: bool) -> None:
    """By gradients in float64: every sample within one multiple, each end reached by one of them, and none passed."""
    network = tiny(net, residual=residual).double()
    multiple, context = network.multiple, network.context
    first = (context // multiple + 2) * multiple
    wave = noise(1, 2 * first + multiple).double().requires_grad_()
    made = network(wave)
    furthest = 0
    for place in range(first, first + multiple):
        (gradient,) = torch.autograd.grad(made[0, place], wave, retain_graph=True)
        seen = gradient[0].nonzero().flatten()
        furthest = max(furthest, place - int(seen[0]), int(seen[-1]) - place)
    assert furthest == context


@pytest.mark.parametrize("net", NETS)
def test_what_lies_beyond_the_context_changes_no_bit(net: str) -> None:
    network = tiny(net)
    context, at = network.context, network.context + 3 * network.multiple
    wave = noise(1, 2 * at)
    other = wave.clone()
    other[:, : at - context] += noise(1, at - context, seed=1)
    other[:, at + context + 1 :] = 0.9
    with torch.no_grad():
        assert torch.equal(network(wave)[:, at], network(other)[:, at])
        assert not torch.equal(network(wave), network(other))


@pytest.mark.parametrize("net", NETS)
def test_chunks_are_the_whole(net: str) -> None:
    """Overlap and discard, with a length that is no multiple: to 1e-6 of full scale."""
    network = tiny(net)
    multiple, samples = network.multiple, 4001
    around = -(-network.context // multiple) * multiple
    wave = noise(2, samples)
    step = 5 * multiple
    pieces = []
    with torch.no_grad():
        for start in range(0, samples, step):
            before, after = max(0, start - around), min(samples, start + step + network.context)
            pieces.append(network(wave[:, before:after])[:, start - before :][:, :step])
        torch.testing.assert_close(torch.cat(pieces, 1), network(wave), rtol=0, atol=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_an_item_does_not_depend_on_its_batch(net: str) -> None:
    network, wave = tiny(net), noise(3, 901)
    with torch.no_grad():
        alone = torch.cat([network(item[None]) for item in wave])
        torch.testing.assert_close(network(wave), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_gradients_reach_every_parameter(net: str) -> None:
    network = tiny(net)
    network(noise(2, 600)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("net", NETS)
def test_the_first_step_can_leave_the_identity(net: str) -> None:
    network = make_generator(GeneratorConfig.of(net, **TINY[net]))
    (network(noise(2, 600)) - noise(2, 600, seed=1)).square().sum().backward()
    head = [parameter for name, parameter in network.named_parameters() if name.startswith("head")]
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in head)


@pytest.mark.parametrize("net", NETS)
def test_silence_has_finite_gradients(net: str) -> None:
    network = tiny(net)
    wave = torch.zeros(1, 300, requires_grad=True)
    network(wave).sum().backward()
    for one in (wave, *network.parameters()):
        assert one.grad is None or one.grad.isfinite().all()


@pytest.mark.parametrize("net", NETS)
def test_autocast_keeps_the_last_layer_and_transforms_in_full_precision(net: str) -> None:
    network, wave = tiny(net), noise(2, 1024)
    heads: list[torch.dtype] = []
    last = [module for name, module in network.named_modules() if name.startswith("head")][-1]
    last.register_forward_hook(lambda module, inputs, made: heads.append(made.dtype))
    with torch.no_grad():
        whole = network(wave)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(wave)
    assert half.dtype == torch.float32 and set(heads) == {torch.float32}
    assert 0 < (half - whole).abs().max() < 0.05 * (whole - wave).abs().max()
    # In bfloat16 the samples themselves would have 8 bits: what was made has more.
    assert not torch.equal(half - wave, (half - wave).bfloat16().float())


def test_autocast_keeps_snake_in_full_precision() -> None:
    snake = Snake(2)
    x = (20 * torch.rand(1, 2, 50, generator=torch.Generator().manual_seed(0))).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        made = snake(x)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made, snake(x.float()).bfloat16(), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_a_shape_is_compiled_once(net: str) -> None:
    network = tiny(net)
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, fullgraph=True, dynamic=False, backend=backend)
    for seed in (0, 1):
        made = compiled(noise(2, 1000, seed=seed))
        made.square().sum().backward()
        torch.testing.assert_close(made, network(noise(2, 1000, seed=seed)), rtol=0, atol=1e-5)
    assert backend.frame_count == 1


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 500])
def test_the_transform_and_its_inverse_are_the_identity_to_the_edges(samples: int) -> None:
    """float64: to 1e-14 of full scale, at the first and the last sample too."""
    wave = noise(2, samples).double()
    taper = torch.hann_window(64, dtype=torch.float64)
    padded = nn.functional.pad(wave, (0, -samples % 16))
    spectrum = analyse(padded, taper)
    assert spectrum.shape == (2, padded.shape[1] // 16 + 3, 33)
    torch.testing.assert_close(synthesize(spectrum, taper)[:, :samples], wave, rtol=0, atol=1e-14)


def test_a_sine_of_full_scale_has_magnitude_one() -> None:
    wave = torch.sin(2 * torch.pi * 8 / 64 * torch.arange(640, dtype=torch.float64))[None]
    magnitude = analyse(wave, torch.hann_window(64, dtype=torch.float64)).abs()
    torch.testing.assert_close(magnitude[:, 8, 8], torch.ones(1, dtype=torch.float64))


def test_the_correction_follows_the_level() -> None:
    """The same head's output on a tone 60 dB weaker adds as much relative to it, to 1 %."""
    network = tiny("spectral")
    nn.init.zeros_(network.get_parameter("enter.weight"))  # what the blocks see is then the same for both
    tone = torch.sin(2 * torch.pi * 0.1 * torch.arange(640))[None]
    with torch.no_grad():
        loud, soft = network(0.5 * tone) - 0.5 * tone, network(0.0005 * tone) - 0.0005 * tone
    inside = slice(64, -64)
    torch.testing.assert_close(soft[:, inside] * 1000, loud[:, inside], rtol=0, atol=0.01 * float(loud.abs().max()))


def test_configurations_survive_json_and_name_what_does_not_fit() -> None:
    for net in DESIGNS:
        config = GeneratorConfig.of(net, width=None, residual=False)
        assert GeneratorConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
        assert (config.width, config.residual) == (DESIGNS[net]["width"], False)
    assert GeneratorConfig.of("dac", strides=[2, 2]).strides == (2, 2)
    with pytest.raises(ValueError, match=r"spectral has no strides"):
        GeneratorConfig.of("spectral", strides=[2])
    with pytest.raises(ValueError, match="dac has no hop"):
        GeneratorConfig.of("dac", hop=64)
    with pytest.raises(ValueError, match="no network 'unet'"):
        GeneratorConfig.of("unet")
    with pytest.raises(ValueError, match="at least 1"):
        GeneratorConfig.of("melgan", blocks=0)
    with pytest.raises(ValueError, match="equal groups"):
        make_generator(GeneratorConfig.of("patch", strides=[3, 2]))


def test_designs_have_the_sizes_that_they_are_described_with() -> None:
    sizes = {}
    with torch.device("meta"):
        for net in DESIGNS:
            sizes[net] = sum(p.numel() for p in make_generator(GeneratorConfig.of(net)).parameters()) / 1e6
    assert 2 < sizes["spectral"] < 3 and 13 < sizes["dac"] < 14 and 15 < sizes["patch"] < 16


def test_weights_say_nothing_about_lengths() -> None:
    """Buffers are no part of what is saved: weights are parameters alone."""
    for net in NETS:
        network = tiny(net)
        assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
        again = make_generator(dataclasses.replace(network.config))
        again.load_state_dict(network.state_dict())
        with torch.no_grad():
            assert torch.equal(again(noise(1, 300)), network(noise(1, 300)))


def test_a_spectral_net_adds_nothing_where_there_is_nothing() -> None:
    """What it adds is turned by the phase of the bin that it adds to, and a bin of nothing has none."""
    net = make_generator(GeneratorConfig.of("spectral", width=16, blocks=1, hop=32))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3)
        assert not net(torch.zeros(1, 1000)).any()
        wave = 0.1 * torch.randn(1, 1000)
        assert float((net(wave) - wave).abs().max()) > 1e-3

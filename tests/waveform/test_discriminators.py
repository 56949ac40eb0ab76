"""Discriminators: what they see of which waves, what they refuse, and how they are trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from partimento.settings import Optim
from partimento.training.groups import claim
from partimento.waveform.discriminators import (
    AdversaryConfig,
    Discriminators,
    WindowDiscriminator,
    audible,
    decimated,
    levelled,
)

TINY = AdversaryConfig(periods=(2, 5), period_width=2, windows=(128, 64), window_width=3, rates=(1, 3), rate_width=4)
NAMES = ("period 2", "period 5", "rate 1", "rate 3", "window 128", "window 64")


def tiny() -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(TINY)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_published_widths_have_the_published_sizes() -> None:
    with torch.device("meta"):
        whole = Discriminators(AdversaryConfig(rates=(1,)))
    sizes = {name: sum(p.numel() for p in member.parameters()) for name, member in whole.members.items()}
    # DAC's, with one gain a channel taken off (weight norm): 8 218 433 a period, 470 529 a window.
    assert {sizes[f"period_{period}"] for period in (2, 3, 5, 7, 11)} == {8_218_433}
    assert {sizes[f"window_{window}"] for window in (2048, 1024, 512)} == {470_529}
    assert sum(sizes.values()) - sizes["rate_1"] == pytest.approx(42.5e6, rel=1e-3)
    layers = whole.members["rate_1"].layers
    assert isinstance(layers, nn.ModuleList)
    plan = [(layer.in_channels, layer.out_channels, layer.groups, layer.kernel_size[0]) for layer in layers]
    published = [(1, 16, 1, 15), (16, 64, 4, 41), (64, 256, 16, 41), (256, 1024, 64, 41), (1024, 1024, 256, 41)]
    assert plan == [*published, (1024, 1024, 1, 5)]


def test_names_are_stable() -> None:
    adversary = tiny()
    assert adversary.names == NAMES
    assert tuple(seen.name for seen in adversary(noise(1, 500))) == NAMES
    state = adversary.state_dict()
    assert {name.split(".")[1] for name in state} == {name.replace(" ", "_") for name in NAMES}
    for name in ("period_2.layers.4", "rate_3.layers.5", "window_64.bands.4.3", "window_128.head"):
        assert {f"members.{name}.weight", f"members.{name}.bias"} <= set(state)


def test_the_maps_are_as_many_as_published() -> None:
    for seen in tiny()(noise(2, 500)):
        assert len(seen.maps) == {"period": 5, "rate": 6, "window": 25}[seen.name.split()[0]]
        assert all(x.shape[0] == 2 for x in [*seen.maps, seen.score])
        assert seen.score.shape[1] == 1


def test_an_item_does_not_depend_on_the_others() -> None:
    adversary, waves = tiny(), noise(3, 701)
    together, alone = adversary(waves), adversary(waves[1:2])
    for one, other in zip(together, alone, strict=True):
        for x, y in zip([*one.maps, one.score], [*other.maps, other.score], strict=True):
            assert torch.allclose(x[1:2], y, atol=1e-6)


def test_loudness_and_offset_are_not_seen() -> None:
    adversary, wave = tiny().double(), noise(1, 600).double()
    for one, other in zip(adversary(wave), adversary(0.01 * wave + 0.3), strict=True):
        assert torch.allclose(one.score, other.score, atol=1e-6)
    level = levelled(wave + 3)
    assert float(level.mean()) == pytest.approx(0, abs=1e-6)
    assert float(level.abs().max()) == pytest.approx(0.8, abs=1e-6)


def test_audible_is_what_stands_out_of_rounding() -> None:
    steps = torch.randint(-1, 2, (400,), generator=torch.Generator().manual_seed(0)) / 32768
    waves = torch.stack([torch.zeros(400), torch.full((400,), 0.5), steps, noise(400), 0.5 + noise(400)])
    assert audible(waves).tolist() == [False, False, False, True, True]


def test_every_wave_from_the_shortest_on_is_seen() -> None:
    adversary = tiny()
    assert adversary.shortest == max(6, 3, WindowDiscriminator(128, 1).shortest)
    for samples in range(adversary.shortest, adversary.shortest + 70):
        assert all(torch.isfinite(seen.score).all() for seen in adversary(noise(1, samples)))
    with pytest.raises(ValueError, match=f"{adversary.shortest} samples or more"):
        adversary(noise(1, adversary.shortest - 1))
    with pytest.raises(ValueError, match=r"waves \[B, N\]"):
        adversary(noise(1, 1, 500))


@pytest.mark.parametrize("config", [{"windows": ()}, {"windows": (), "periods": ()}, {"windows": (), "rates": ()}])
def test_any_kind_can_be_left_out(config: dict[str, tuple[int, ...]]) -> None:
    adversary = Discriminators(dataclasses.replace(TINY, **config))  # type: ignore[arg-type]
    samples = adversary.shortest
    assert len(adversary(noise(1, samples))) == len(adversary.names)


@pytest.mark.parametrize("window", [32, 33, 47, 2048])
def test_a_window_sees_a_frame_for_every_hop(window: int) -> None:
    one = WindowDiscriminator(window, 1)
    for samples in (one.shortest, one.shortest + 1, 3 * window, 3 * window + 1):
        spectrum = one.spectrum(noise(1, samples))
        assert spectrum.shape == (1, 2, -(-samples // (window // 4)), window // 2 + 1)
    assert one.edges[0][0] == 0 and one.edges[-1][1] == window // 2 + 1
    assert all(one.edges[i][1] == one.edges[i + 1][0] for i in range(4))


def test_each_discriminator_pulls_at_the_wave_and_each_weight_learns() -> None:
    adversary, wave = tiny(), noise(1, 800).requires_grad_()
    for seen in adversary(wave):
        (gradient,) = torch.autograd.grad(seen.score.square().sum(), wave, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).float().mean() > 0.9, seen.name
    sum(seen.score.square().sum() for seen in adversary(wave)).backward()
    for name, parameter in adversary.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_transforms_stay_in_full_precision() -> None:
    adversary, wave = tiny(), noise(1, 800)
    window = adversary.members["window_128"]
    assert isinstance(window, WindowDiscriminator)
    seen: dict[str, Tensor] = {}
    plain = window.spectrum
    window.spectrum = lambda x: seen.setdefault("spectrum", plain(x))  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        half = adversary(wave)
    assert seen["spectrum"].dtype == torch.float32
    assert torch.equal(seen["spectrum"], plain(levelled(wave)))
    for one, other in zip(half, adversary(wave), strict=True):
        assert one.score.dtype == torch.bfloat16
        assert torch.allclose(one.score.float(), other.score, atol=0.02)
    assert adversary(wave.bfloat16())[0].score.dtype == torch.float32


@pytest.mark.parametrize("rate", [2, 3, 7])
def test_decimation_keeps_what_fits_and_its_place(rate: int) -> None:
    time = torch.arange(6001, dtype=torch.float64)
    kept = torch.sin(2 * torch.pi * 0.35 / rate * time + 1)[None]
    gone = torch.sin(2 * torch.pi * 0.55 / rate * time + 1)[None]
    few = decimated(kept, rate)
    inner = slice(60, -60)  # away from where the ends were repeated
    assert few.shape == (1, 6001 // rate)
    assert float((few - kept[:, ::rate][:, : few.shape[1]])[:, inner].abs().max()) < 2e-3
    assert float(decimated(gone, rate)[:, inner].abs().max()) < 1e-3
    assert torch.allclose(decimated(torch.ones(1, 100), rate), torch.ones(1, 100 // rate), atol=1e-6)
    assert torch.equal(decimated(kept, 1), kept)


def test_muon_takes_every_kernel_between_channels() -> None:
    adversary = Discriminators(dataclasses.replace(TINY, period_width=4))
    claims = {one.name: one for one in claim(adversary, Optim(name="muon"))}
    for path, layer in adversary.named_modules():
        if not isinstance(layer, nn.Conv1d | nn.Conv2d):
            continue
        one = claims[f"{path}.weight"]
        if path.endswith("head"):
            assert one.optimizer == "adamw"
        elif (
            layer.in_channels > 2
        ):  # a first layer, of a wave or a spectrum's two parts, is as training/groups.py has it
            assert one.optimizer == "muon" and one.parts == (layer.out_channels // layer.groups,) * layer.groups


def test_the_configuration_is_checked() -> None:
    for wrong in ({"periods": (2, 2)}, {"rates": (0,)}, {"windows": (16,)}, {"window_width": 0}):
        with pytest.raises(ValueError):
            dataclasses.replace(TINY, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a period, a window or a rate"):
        AdversaryConfig((), 1, (), 1, (), 1)

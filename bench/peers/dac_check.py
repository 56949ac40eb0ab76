"""Discriminators, adversarial losses and distances against the published package's, on the same random weights.

    git clone https://github.com/descriptinc/descript-audio-codec CHECKOUT
    python -m venv V && V/bin/pip install descript-audiotools && V/bin/pip install -e .
    V/bin/python bench/peers/dac_check.py CHECKOUT              about a minute of one idle core

That package wants an old protobuf and torchaudio, so it is never installed beside partimento's own dependencies. Where
torchaudio is missing or does not load, an empty module stands in: it only reads files there.

Its discriminators (periods, rates 1, 2 and 3, windows) have the weights that they are born with, gains moved by chance;
g * v / |v| is copied into ours. Waves: noise and tones of lengths that are multiples of periods and hops, and are not.
Compared are all maps (largest difference as a share of the map's peak), both players' losses, and the distances "mel",
"stft" and "si_sdr": to 1e-4. Gradients of the generator's losses at the wave (norm of the difference as a share of the
norm): to 5e-3, because activations within rounding of a leaky ReLU's kink take one slope or the other; in float32 and
in float64 our own differ by as much. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from partimento.waveform.adversarial import discriminator_loss, feature_loss, generator_loss
from partimento.waveform.discriminators import AdversaryConfig, Discriminators
from partimento.waveform.losses import distances

SAMPLE_RATE = 44100
TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 5e-3
LENGTHS = (2310 * 4, 8192, 12345)  # a multiple of every period, one of every hop, and neither


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="folder with descript-audio-codec")
    theirs_module, losses, audiotools = _published(parser.parse_args().checkout)
    torch.manual_seed(0)
    theirs = theirs_module.Discriminator(rates=[1, 2, 3], sample_rate=SAMPLE_RATE).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("weight_g"):
                weight.mul_(torch.empty_like(weight).uniform_(0.5, 1.5))
    ours = Discriminators(AdversaryConfig(rates=(1, 2, 3))).eval()
    _copy_folded(theirs, ours)
    worst: dict[str, float] = {}
    for number, samples in enumerate(LENGTHS):
        real, fake = _waves(samples, number)
        _compare_maps(ours, theirs, real, worst)
        _compare_losses(ours, theirs, losses, audiotools, real, fake, worst)
        _compare_distances(losses, audiotools, real, fake, worst)
    bounds = {name: GRADIENT_TOLERANCE if name.startswith("gradient") else TOLERANCE for name in worst}
    differing = [name for name in worst if not worst[name] <= bounds[name]]
    for name, difference in worst.items():
        print(f"{name:24s} {difference:9.1e}  {'DIFFERS' if name in differing else ''}")
    print(json.dumps({"lengths": LENGTHS, "worst": worst, "differing": differing}))
    sys.exit(bool(differing))


def _published(checkout: Path) -> tuple[Any, Any, Any]:
    sys.path.insert(0, str(checkout))
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    audiotools = importlib.import_module("audiotools")
    return _module(checkout, "dac/model/discriminator.py"), _module(checkout, "dac/nn/loss.py"), audiotools


def _module(checkout: Path, path: str) -> Any:
    """One file of the checkout: its package as a whole imports more than these need."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, checkout / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _copy_folded(theirs: nn.Module, ours: nn.Module) -> None:
    """The same layers come in the same order on both sides."""
    kinds = nn.Conv1d | nn.Conv2d
    pairs = list(zip(_layers(theirs, kinds), _layers(ours, kinds), strict=True))
    with torch.no_grad():
        for published, own in pairs:
            direction, gain = published.weight_v, published.weight_g
            norm = direction.flatten(1).norm(dim=1).reshape(gain.shape)
            own.weight.copy_(gain * direction / norm)
            own.bias.copy_(published.bias)


def _layers(module: nn.Module, kinds: Any) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


def _waves(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / SAMPLE_RATE
    tones = torch.stack([0.3 * torch.sin(2 * torch.pi * pitch * time) for pitch in (220.0, 1760.0)])
    real = tones + 0.05 * torch.randn(2, samples, generator=generator) + 0.01
    return real, 0.7 * real + 0.03 * torch.randn(2, samples, generator=generator)


def _compare_maps(ours: Discriminators, theirs: nn.Module, wave_BN: Tensor, worst: dict[str, float]) -> None:
    with torch.no_grad():
        published, own = theirs(wave_BN[:, None]), ours(wave_BN)
    for maps, seen in zip(published, own, strict=True):
        for one, other in zip(maps, [*seen.maps, seen.score], strict=True):
            _note(worst, seen.name, one, other)


def _compare_losses(
    ours: Discriminators,
    theirs: nn.Module,
    losses: Any,
    audiotools: Any,
    real: Tensor,
    fake: Tensor,
    worst: dict[str, float],
) -> None:
    gan = losses.GANLoss(theirs)
    there, here = fake.clone().requires_grad_(), fake.clone().requires_grad_()
    signals = [audiotools.AudioSignal(wave[:, None], SAMPLE_RATE) for wave in (there, real)]
    _note(
        worst,
        "loss of discriminators",
        gan.discriminator_loss(*signals),
        discriminator_loss(ours(real), ours(fake)).mean(),
    )
    adversarial, features = gan.generator_loss(*signals)
    seen = ours(here)
    own = generator_loss(seen).mean(), feature_loss(ours(real), seen).mean()
    _note(worst, "adversarial", adversarial, own[0])
    _note(worst, "features", features, own[1])
    for name, one, other in (("adversarial", adversarial, own[0]), ("features", features, own[1])):
        (published,) = torch.autograd.grad(one, there, retain_graph=True)
        (gradient,) = torch.autograd.grad(other, here, retain_graph=True)
        distance = float((published - gradient).norm() / published.norm())
        worst[f"gradient of {name}"] = max(worst.get(f"gradient of {name}", 0.0), distance)


def _compare_distances(losses: Any, audiotools: Any, real: Tensor, fake: Tensor, worst: dict[str, float]) -> None:
    made, target = (audiotools.AudioSignal(wave[:, None], SAMPLE_RATE) for wave in (fake, real))
    windows = [32, 64, 128, 256, 512, 1024, 2048]
    mel = losses.MelSpectrogramLoss(
        n_mels=[5, 10, 20, 40, 80, 160, 320],
        window_lengths=windows,
        mel_fmin=[0] * 7,
        mel_fmax=[None] * 7,
        pow=1.0,
        clamp_eps=1e-5,
        mag_weight=0.0,
    )
    published = {
        "mel": mel(made, target),
        "stft": losses.MultiScaleSTFTLoss()(made, target),
        "si_sdr": losses.SISDRLoss()(target, made),
    }
    for name, part_B in distances(fake, real, SAMPLE_RATE, list(published)).items():
        _note(worst, name, published[name], part_B.mean())


def _note(worst: dict[str, float], name: str, one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        raise SystemExit(f"{name}: shapes {tuple(one.shape)} and {tuple(other.shape)}")
    difference = float((one - other).abs().max() / one.abs().max())
    worst[name] = max(worst.get(name, 0.0), difference)


if __name__ == "__main__":
    main()

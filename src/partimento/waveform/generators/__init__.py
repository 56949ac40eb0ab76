"""Networks from wave to wave: one shape of configuration, five networks, exact lengths and finite reach."""

from __future__ import annotations

from partimento.waveform.generators.common import Generator, GeneratorConfig
from partimento.waveform.generators.convnext import ConvNextUNet
from partimento.waveform.generators.dac import DacUNet
from partimento.waveform.generators.melgan import MelganUNet
from partimento.waveform.generators.patch import PatchUNet
from partimento.waveform.generators.spectral import SpectralNet

__all__ = ["Generator", "GeneratorConfig", "make_generator"]

_NETS: dict[str, type[Generator]] = {
    "spectral": SpectralNet,
    "dac": DacUNet,
    "convnext": ConvNextUNet,
    "patch": PatchUNet,
    "melgan": MelganUNet,
}


def make_generator(config: GeneratorConfig) -> Generator:
    """A new network, its weights drawn from torch's global generator.

    Raises ValueError for strides that a network cannot have.
    """
    return _NETS[config.net](config)

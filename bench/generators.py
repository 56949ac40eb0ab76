"""The five generators of `restore` beside transformers' DAC at a quarter of its width: size, arithmetic, speed, memory.

    python bench/generators.py            about 3 minutes on an idle core
    python bench/generators.py --quick    a batch of 2 and no repetitions; a minute

Each has its default size. DacModel (44.1 kHz, strides 2-4-8-8, 9 codebooks) encodes and decodes: the network from wave
to wave that people have at hand. It has a codec's work to do, not a restorer's, so only the costs compare.

GFLOP/s   arithmetic of the products and convolutions for a second of audio, forward (2 a multiply-add; transforms
          are left out)
x real    seconds of audio made in a second, forward, 4 s at a time, one item
steps/s   forward and backward of 12 x 16384 samples, without the losses and the optimizer
context   how far a sample sees on either side, and what inference pays for each cut
memory    what such a step keeps for its backward pass

They take turns (the machine may be shared), medians are compared. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DacConfig, DacModel

from partimento.waveform.generators import Generator, GeneratorConfig, make_generator

SAMPLE_RATE, SECONDS, BATCH, CROP = 44100, 4, 12, 16384
NETS = ["spectral", "dac", "convnext", "patch", "melgan"]
PEER = "transformers DAC / 4"


class Peer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dac = DacModel(DacConfig(encoder_hidden_size=16, decoder_hidden_size=384, sampling_rate=SAMPLE_RATE))

    def forward(self, wave_BN: Tensor) -> Tensor:
        return self.dac(wave_BN[:, None]).audio_values


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="a batch of 2 and no repetitions")
    quick = arguments.parse_args().quick
    batch, repetitions = (2, 1) if quick else (BATCH, 3)
    names = [*NETS, PEER]
    networks = {name: build(name) for name in names}
    wave = 0.1 * torch.randn(1, SECONDS * SAMPLE_RATE)
    crops = 0.1 * torch.randn(batch, CROP)
    forward = take_turns({name: _forward(network, wave) for name, network in networks.items()}, repetitions)
    steps = take_turns({name: _step(network, crops) for name, network in networks.items()}, repetitions)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, steps of {batch} x {CROP}")
    columns = f"{'parameters':>12}{'GFLOP/s':>10}{'x real':>9}{'steps/s':>9}{'context ms':>12}{'memory MB':>11}"
    print(f"{'':<22}{columns}")
    results = []
    for name, network in networks.items():
        context = network.context / SAMPLE_RATE * 1e3 if isinstance(network, Generator) else None
        row: dict[str, Any] = {
            "network": name,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "gflop_per_second": arithmetic(network) / 1e9,
            "x_real_time": SECONDS / forward[name],
            "steps_per_second": 1 / steps[name],
            "context_ms": context,
            "memory_mb": kept(network, crops) / 1e6,
        }
        results.append(row)
        told = "" if context is None else f"{context:.1f}"
        print(
            f"{name:<22}{row['parameters']:>12,}{row['gflop_per_second']:>10.2f}{row['x_real_time']:>9.1f}"
            f"{row['steps_per_second']:>9.3f}{told:>12}{row['memory_mb']:>11.0f}",
            flush=True,
        )
    print(json.dumps({"bench": "generators", "threads": torch.get_num_threads(), "batch": batch, "results": results}))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Peer() if name == PEER else make_generator(GeneratorConfig.of(name))


def _forward(network: nn.Module, wave: Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def way() -> object:
        return network(wave)

    return way


def _step(network: nn.Module, crops: Tensor) -> Callable[[], object]:
    def way() -> None:
        network.zero_grad()
        network(crops).square().mean().backward()

    return way


def take_turns(ways: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each, the ways alternating; one unmeasured round first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def arithmetic(network: nn.Module) -> float:
    """Floating-point operations for a second of audio."""

    def product(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
        return 2 * math.prod(x) * weight[0]

    operators = {torch.ops.mkldnn._linear_pointwise: product}  # of models/linear.py, which torch does not count
    with FlopCounterMode(display=False, custom_mapping=operators) as counter, torch.no_grad():
        network(torch.zeros(1, SAMPLE_RATE))
    return float(counter.get_total_flops())


def kept(network: nn.Module, crops: Tensor) -> int:
    """Bytes that a training step keeps for its backward pass, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = network(crops)  # holds on to them all, so that no address comes twice
    assert made.requires_grad
    return sum(size for address, size in sizes.items() if address not in weights)


if __name__ == "__main__":
    main()

"""Restorers that were never trained: tiny networks with random weights, in a run or as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from partimento.config import parse
from partimento.runs import checkpoint
from partimento.runs.run import Run
from partimento.training.restorer import Restorer
from partimento.waveform.generators import Generator, GeneratorConfig, make_generator

TINY: dict[str, dict[str, Any]] = {
    "spectral": {"width": 16, "blocks": 2, "hop": 32},
    "dac": {"width": 4, "strides": (2, 4), "blocks": 1, "stem": 2},
    "convnext": {"width": 8, "strides": (4, 2), "blocks": 1, "stem": 4},
    "patch": {"width": 8, "strides": (2, 4), "blocks": 1, "stem": 4},
    "melgan": {"width": 8, "strides": (4, 2), "blocks": 1, "stem": 4},
}


def network(net: str = "spectral", *, residual: bool = True, seed: int = 0, **of: Any) -> Generator:
    """Its last layer, which begins at zero, is drawn too: what it makes differs clearly from what it is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make_generator(GeneratorConfig.of(net, residual=residual, **{**TINY[net], **of}))
        for weight in made.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.1)
    return made.eval().requires_grad_(False)


def restorer(
    generator: Generator | None = None, *, sample_rate: int = 8000, task: Literal["clean", "unshift"] = "clean"
) -> Restorer:
    made = generator or network(residual=task == "clean")
    return Restorer(made, sample_rate, task, (-3.0, 3.0), True, "toy", "0" * 64, {}, torch.device("cpu"))


def make_run(
    root: Path, name: str, *, task: str = "clean", ema: bool = True, net: str = "spectral", sample_rate: int = 8000
) -> Run:
    """A run with one checkpoint, whose averaged weights are half the raw ones."""
    model = {"net": net, **TINY[net]}
    data = {"folders": [str(root / "music")], "task": task, "sample_rate": sample_rate, "semitones": [-3, 3]}
    run = Run.create(root, parse({"family": "restore", "data": data, "model": model}), run_id=name)
    made = network(net)
    weights = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    averaged = {name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    description = {
        "generator": made.config.to_json(),
        "sample_rate": sample_rate,
        "task": task,
        "semitones": [-3.0, 3.0],
        "full_band": True,
    }
    state = {"family": "restore", "ema_updates": int(ema), "description": description, "score": None}
    checkpoint.save(run.checkpoints_path, 7, {"model": weights, "ema": averaged} if ema else {"model": weights}, state)
    return run

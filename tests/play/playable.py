"""Runs that can be played without having been trained: tiny models with random weights, over the resident codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from partimento.config import CodecConfig, parse
from partimento.runs import checkpoint
from partimento.runs.run import Run
from partimento.sampling.sheet import FREE, Ending
from partimento.tokens.spec import CodecSpec
from partimento.training import building
from partimento.training.ema import named_state
from partimento.training.player import Player

TAGS = ("A minor", "bright", "C# major", "techno")
WINDOW = 24
MODEL: dict[str, dict[str, Any]] = {
    "rvq": {"width": 16, "layers": 1, "heads": 2},
    "dia": {"width": 16, "layers": 1, "heads": 2, "text_width": 16, "text_layers": 1, "text_heads": 2},
}


def resident_spec() -> CodecSpec:
    from partimento.codecs.codec import open_codec

    return open_codec().spec


def toy_spec() -> CodecSpec:
    return CodecSpec("toy", "0" * 64, 8000, Fraction(100), (8, 8))


def player_of(
    family: str = "rvq",
    *,
    spec: CodecSpec | None = None,
    null_share: float = 0.2,
    seed: int = 0,
    tags: tuple[str, ...] = TAGS,
    ending: Ending = FREE,
    model: Mapping[str, Any] | None = None,
) -> Player:
    spec = spec or resident_spec()
    settings = {"family": family, "data": {"pack": "pack"}, "model": model or MODEL[family]}
    torch.manual_seed(seed)
    config = parse(settings)
    assert not isinstance(config, CodecConfig)
    built = building.build(config, spec, tags, WINDOW)
    # Random weights as initialised play every code alike; these have opinions, and differ under each condition.
    for weight in built.module.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    built.module.eval()
    return Player.of(replace(built, ending=ending), spec, WINDOW, null_share)


def make_run(root: Path, name: str, family: str = "rvq", *, ema: bool = True, **of: Any) -> Run:
    """A run with one checkpoint, whose averaged weights are twice the raw ones."""
    config = parse({"family": family, "data": {"pack": "pack"}, "model": of.get("model", MODEL[family])})
    run = Run.create(root, config, run_id=name)
    player = player_of(family, **of)
    weights = {name: tensor.detach().clone() for name, tensor in named_state(player.module).items()}
    averaged = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    state = {"family": family, "ema_updates": int(ema), "description": player.description(), "score": None}
    checkpoint.save(run.checkpoints_path, 7, {"model": weights, "ema": averaged} if ema else {"model": weights}, state)
    return run

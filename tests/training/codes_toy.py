"""A small pack of a noisy cycle, a codec that sounds like it, and a configuration of the code families for them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partimento.config import CodesConfig, DiaConfig, RvqConfig, parse
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter
from partimento.training.tasks.codes import CodesTask

SPEC = CodecSpec("toy", "ab" * 32, 8000, Fraction(50), (16, 16, 16))


class ToyCodec:
    """Each frame sounds as a level that follows its first code."""

    context_frames = 0

    def __init__(self, spec: CodecSpec = SPEC) -> None:
        self.spec = spec

    def encode(self, wave_BCN: torch.Tensor) -> torch.Tensor:
        raise AssertionError("demos decode only")

    def decode(self, codes_BTK: torch.Tensor) -> torch.Tensor:
        return (codes_BTK[:, None, :, 0].float() / 16).repeat_interleave(160, dim=-1)


def write_pack(folder: Path, *, seed: int = 0, tags: bool = True, captions: bool = False) -> Path:
    """Twelve clips of a noisy cycle: predictable from the frame before, not from counts alone."""
    rng = np.random.default_rng(seed)
    writer = PackWriter(folder, SPEC)
    for clip in range(12):
        frames = int(rng.integers(150, 320))
        walk = (np.arange(frames) * (1 + clip % 2) + rng.integers(0, 12)) % 12
        codes_TK = np.stack([walk, (walk + 3) % 12, (walk * 5) % 12], axis=1)
        noise = rng.random(codes_TK.shape) < 0.1
        codes_TK[noise] = rng.integers(0, 12, int(noise.sum()))
        pace = "fast" if clip % 2 else "slow"
        caption = f"a {pace} cycle" if captions else None
        writer.add(codes_TK, clip=f"clip{clip}.wav", tags=[pace] if tags else [], caption=caption)
    writer.finish()
    return folder


def config(pack: Path, family: str = "rvq", **sections: dict[str, Any]) -> CodesConfig:
    tree: dict[str, Any] = {
        "family": family,
        "data": {"pack": str(pack), "window": 32, "tag_dropout": 0.1},
        "model": {"width": 32, "layers": 2, "heads": 2, "dropout": 0.1},
        "optim": {"batch": 4, "lr": 0.01, "warmup": 5, "ema": 0.9},
        "train": {"steps": 8, "valid_every": 4, "save_every": 4, "log_every": 2, "valid_items": 10, "device": "cpu"},
        "demo": {"seconds": 1.0, "seeds": [0, 1]},
    }
    for name, values in sections.items():
        tree[name] |= values
    made = parse(tree)
    assert isinstance(made, RvqConfig | DiaConfig)
    return made


def task(pack: Path, family: str = "rvq", **sections: dict[str, Any]) -> CodesTask:
    torch.manual_seed(0)
    return CodesTask(config(pack, family, **sections), torch.device("cpu"))

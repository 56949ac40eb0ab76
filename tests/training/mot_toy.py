"""A small pack with captions, a small random Llama and MusicGen beside it, and a configuration of the mot family."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codes_toy import SPEC

from partimento.config import MotConfig, parse
from partimento.tokens.writer import PackWriter
from partimento.training.tasks.codes import CodesTask

sys.path.append(str(Path(__file__).parents[1] / "runs"))
from small_models import write_llama, write_musicgen

__all__ = ["config", "task", "write_llama", "write_musicgen", "write_pack"]


def write_pack(folder: Path) -> Path:
    """Cycles that go up or down by their caption, slow or fast by their tag."""
    rng = np.random.default_rng(0)
    writer = PackWriter(folder, SPEC)
    for clip in range(24):
        stride = (1 + clip % 2) * (1 if clip % 4 < 2 else -1)
        walk = (np.arange(int(rng.integers(90, 150))) * stride + rng.integers(0, 12)) % 12
        codes_TK = np.stack([walk, (walk + 3) % 12, (walk * 5) % 12], axis=1)
        caption = ("climbing", "falling")[clip % 4 // 2]
        writer.add(codes_TK, clip=f"clip{clip}.wav", tags=["fast" if clip % 2 else "slow"], caption=caption)
    writer.finish()
    return folder


def config(pack: Path, llama: Path, **sections: dict[str, Any]) -> MotConfig:
    tree: dict[str, Any] = {
        "family": "mot",
        "data": {"pack": str(pack), "window": 24, "null_share": 0.2},
        "model": {"backbone": str(llama), "expert_width": 8, "expert_inner": 16, "text_length": 24},
        "optim": {"batch": 4, "lr": 0.01, "warmup": 5, "ema": 0.9},
        "train": {"steps": 8, "valid_every": 4, "save_every": 4, "log_every": 2, "valid_items": 6, "device": "cpu"},
        "demo": {"temperatures": []},
    }
    if sections.get("model", {}).get("experts", "feedforward") != "feedforward" or "experts_from" in sections.get(
        "model", {}
    ):
        del tree["model"]["expert_width"], tree["model"]["expert_inner"]
    for name, values in sections.items():
        tree[name] |= values
    made = parse(tree)
    assert isinstance(made, MotConfig)
    return made


def task(made: MotConfig) -> CodesTask:
    torch.manual_seed(0)
    return CodesTask(made, torch.device("cpu"))

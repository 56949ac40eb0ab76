"""Trainings for several ranks, as a program: `launch.spawn` starts it, and it trains what its arguments name."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from partimento.config import Config, parse
from partimento.progress import Quiet
from partimento.training.engine import train
from partimento.training.launch import reported

STEPS = 50


def config(pack: str | Path, parallel: str = "ddp", name: str = "adamw", precision: str = "fp32") -> Config:
    """A tiny decoder; windows at the ends of clips are padded, so ranks have different numbers of tokens."""
    optim = {"batch": 4, "accumulate": 2, "lr": 3e-3, "warmup": 3, "ema": 0.9}
    plan = {"steps": STEPS, "log_every": 1, "valid_every": 25, "valid_items": 6, "save_every": 10, "device": "cpu"}
    return parse(
        {
            "family": "rvq",
            "data": {"pack": str(pack), "window": 30, "null_share": 0.2},
            "model": {"width": 32, "layers": 2, "heads": 2},
            "optim": {**optim, "name": name},
            "train": {**plan, "parallel": parallel, "precision": precision},
            "demo": {"temperatures": []},
        }
    )


class StopAt(Quiet):
    """Send this process a signal after a step."""

    def __init__(self, step: int | None, number: int) -> None:
        self.step, self.number = step, number

    def update(self, done: float, total: float, **facts: Any) -> None:
        if done == self.step:
            os.kill(os.getpid(), self.number)


def main(runs: Path, pack: Path, wanted: list[dict[str, Any]]) -> None:
    """Each of `wanted` is {"run", "stop" (a step, or None), "parallel", ...}."""
    torch.set_num_threads(1)
    with reported():
        for keys in wanted:
            run, stop = keys.pop("run"), keys.pop("stop", None)
            train(config(pack, **keys), runs=runs, run=run, progress=StopAt(stop, signal.SIGUSR2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))

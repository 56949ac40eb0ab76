"""Trainings of two players that take seconds: tiny networks, short recordings. Also a program, for ranks and for kills.

python players.py RUNS TAKES '[{"run": "a", "family": "restore", ...}]'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from partimento.config import Config, parse
from partimento.progress import Progress
from partimento.runs import checkpoint
from partimento.runs.events import read_events
from partimento.training.engine import train
from partimento.training.launch import reported
from partimento.training.tasks.crops import is_held_out

RATE = 16000
SMALL = {"periods": [2, 3], "period_width": 4, "windows": [256], "window_width": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "restore": {"net": "spectral", "width": 12, "blocks": 2, "hop": 64},
    "codec": {
        "sample_rate": RATE, "hop": 256, "width": 16, "encoder_layers": 1, "decoder_layers": 1, "latent": 4,
        "codebooks": 2, "cardinality": 16, "start_step": 2,
    },
}  # fmt: skip


def write_takes(folder: Path, number: int = 16, seconds: float = 0.6) -> Path:
    """Plucked tones of some partials over a little noise: what a network can learn something of at once."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for take in range(number):
        time = np.arange(int(RATE * (seconds + 0.01 * take))) / RATE
        wave = 0.003 * rng.standard_normal(len(time))
        for onset in (0.0, 0.2, 0.4):
            hertz, sounding = 110 * 2 ** (rng.integers(0, 24) / 12), time >= onset
            pluck = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 12))
            wave += 0.2 * sounding * np.exp(-8 * np.clip(time - onset, 0, None)) * pluck
        soundfile.write(folder / f"take{take}.wav", 0.9 * wave / np.abs(wave).max(), RATE)
    assert {is_held_out(file.name) for file in folder.iterdir()} == {True, False}
    return folder


def config(takes: str | Path, family: str = "restore", **sections: dict[str, Any]) -> Config:
    """`sections` are laid over the sections of their names."""
    tree: dict[str, Any] = {
        "family": family,
        "data": {"folders": [str(takes)], "band_loops": 0, "crop": 4096},
        "model": NETWORKS[family],
        "adversary": {"start": 0, **SMALL},
        "optim": {"batch": 2, "warmup": 2, "lr": 1e-3, "ema": 0.9},
        "train": {"steps": 8, "log_every": 1, "valid_every": 4, "valid_items": 2, "save_every": 3, "device": "cpu"},
        "demo": {"temperatures": []},
    }
    if family == "restore":
        tree["data"] |= {"sample_rate": RATE, "semitones": [-3, 3], "full_band": False}
    for name, values in sections.items():
        tree[name] = tree[name] | values if name in tree else values
    return parse(tree)


def end(runs: Path, run: str) -> dict[str, torch.Tensor]:
    """All that the last checkpoint holds: "part/name" of both players."""
    found = checkpoint.load(checkpoint.visible(runs / run / "checkpoints")[-1])
    named = {f"{part}/{name}": tensor for part, tensors in found.parts.items() for name, tensor in tensors.items()}
    return named | {"step": torch.tensor(found.step)}


def state(runs: Path, run: str) -> dict[str, Any]:
    """The JSON of the last checkpoint."""
    return dict(checkpoint.load(checkpoint.visible(runs / run / "checkpoints")[-1], ()).state)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of what differs, in a bit or in being there. Of bytes: the guard's memory begins as NaN."""
    names = one.keys() ^ other.keys()
    shared = one.keys() & other.keys()
    return sorted(names | {n for n in shared if one[n].numpy().tobytes() != other[n].numpy().tobytes()})


def figures(runs: Path, run: str) -> list[dict[str, Any]]:
    """The lines of the log of the steps, each step's last."""
    lines = {event["step"]: event for event in read_events(runs / run / "events.jsonl") if event["kind"] == "train"}
    return [lines[step] for step in sorted(lines)]


def alarms(runs: Path, run: str) -> list[tuple[int, str]]:
    events = read_events(runs / run / "events.jsonl")
    return [(event["step"], event["alarm"]) for event in events if event["kind"] == "alarm"]


def main(runs: Path, takes: Path, wanted: list[dict[str, Any]], progress: Progress | None = None) -> None:
    torch.set_num_threads(1)
    with reported():
        for keys in wanted:
            run = keys.pop("run")
            train(config(takes, **keys), runs=runs, run=run, progress=progress)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))

"""Runs as training leaves them, with a known truth: a score for each clip that is clip + seed + what the cell adds."""

from pathlib import Path
from typing import Any

import numpy as np

from partimento.config import parse
from partimento.runs import checkpoint, judged
from partimento.runs.events import EventLog
from partimento.runs.run import Run

RATE, SIZE = 700.0, 400.0  # bits per second of one nat a code, codes of a clip


def make(
    root: Path,
    name: str,
    *,
    seed: int = 0,
    adds: float = 0.0,
    noise: float = 0.0,
    seeds: float = 5.0,
    sources: int = 8,
    kept: bool = True,
    codec: str = "toy",
    fingerprint: str = "ab",
    size: float = SIZE,
    family: str = "rvq",
    steps: tuple[int, ...] = (50, 100),
    **changes: Any,
) -> Path:
    """A run of two clips a source. `adds` bits per second to all, `noise` to each clip of each run, `seeds` is how far
    seeds are apart, alike for all cells."""
    tree: dict[str, Any] = {"family": family, "train": {"seed": seed, "steps": max(steps)}}
    tree["data"] = {"pack": "p"} if family != "restore" else {"folders": ["f"]}
    for key, value in changes.items():
        section, _, last = key.partition("__")
        tree.setdefault(section, {})[last] = value
    identity = {"fingerprint": fingerprint, "codec": codec, "codec_weights": codec}
    run = Run.create(root, parse(tree), run_id=name, extra={"identity": identity})
    log = EventLog(run.events_path)
    log.append("start", 0)
    clips = [f"s{source}-{clip}.wav" for source in range(sources) for clip in range(2)]
    of_clip = np.random.default_rng(0).normal(0, 60, len(clips))
    of_seed = seeds * np.random.default_rng(seed).normal()
    own = np.random.default_rng([seed, len(name), *name.encode()]).normal(0, noise, len(clips))
    score = "mel7" if family == "restore" else "bits_per_second"
    for step in steps:
        bits = 1000 + 20 * (max(steps) - step) / max(steps) + of_clip + of_seed + adds + own
        for line in range(step - 40, step + 1, 10):
            log.append("train", line, loss=6 - line / 100, grad_norm=0.5 + line % 3, frames_per_second=900.0, skipped=0)
        figures = {score: float(bits.mean())}
        if family != "restore":
            figures |= {"ce_K": [1.0, float(bits.mean()) / RATE - 1.0], "entropy_K": [1.0, 2.0]}
        log.append("valid", step, weights="ema", **figures)
        checkpoint.save(
            run.checkpoints_path,
            step,
            {},
            {"step": step, "family": family, "score": figures[score], "figures": figures},
        )
        if kept:
            items = judged.Items(
                clips, [clip[:2] for clip in clips], [0] * len(clips), [size] * len(clips),
                {score: (bits / RATE * size).tolist()}, {score: RATE},
            )  # fmt: skip
            judged.write(run.path, step, "ema", items)
    log.append("end", max(steps), reason="finished")
    return run.path

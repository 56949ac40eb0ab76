"""A run directory as the engine leaves it, made by hand: the record and the log by their owners, the rest as files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from safetensors.numpy import save_file

from partimento.config import parse
from partimento.runs.events import EventLog
from partimento.runs.run import Run

RATE = 44100
BOOKS = 9
DATA = {
    "items": 8, "frames": 129.0, "silence": 0.125, "entropy": 4.8, "entropy_K": [4.4 + 0.1 * k for k in range(BOOKS)],
    "coverage": 0.19, "coverage_K": [0.19] * BOOKS, "repetition": 0.0625, "repetition_K": [0.0625] * BOOKS,
}  # fmt: skip


def tone(seconds: float, hertz: float, level: float = 0.5, rate: int = RATE) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def music(seed: int, seconds: float = 1.5) -> np.ndarray:
    """A few decaying partials on a beat, so that pictures have something to show."""
    rng = np.random.default_rng(seed)
    wave = np.zeros(int(seconds * RATE))
    for beat in range(int(seconds * 4)):
        hertz = 110 * 2 ** (rng.integers(0, 24) / 12)
        length = min(int(0.5 * RATE), len(wave) - int(beat * RATE / 4))
        time = np.arange(length) / RATE
        note = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 9)) * np.exp(-6 * time)
        wave[int(beat * RATE / 4) :][:length] += 0.2 * note + 0.1 * rng.standard_normal(length) * np.exp(-80 * time)
    return wave.astype(np.float32)


def make_run(
    root: Path,
    *,
    steps: int = 600,
    hypothesis: str | None = "Delays help.",
    fingerprint: str = "ab" * 32,
    **config: Any,
) -> Run:
    tree = {"family": "rvq", "data": {"pack": "band.pack"}, "train": {"steps": 600}, **config}
    identity = {"fingerprint": fingerprint, "codec": "resident-44k"}
    environment = {"device": "cpu", "name": "cpu", "threads": 2}
    extra = {"identity": identity, "environment": environment, "parameters": 9_512_448}
    return Run.create(root, parse(tree), run_id="20260315_rvq_004_delay", hypothesis=hypothesis, extra=extra)


def log_training(run: Run, *, steps: int = 600, goal: float = 0.72) -> None:
    rng = np.random.default_rng(7)
    log = EventLog(run.events_path)
    unigram = [5.6 + 0.13 * k for k in range(BOOKS)]
    bigram = [4.6 + 0.2 * k for k in range(BOOKS)]
    log.append("start", 0, device="cpu", threads=2)
    log.append(
        "baseline",
        0,
        unigram_ce_K=unigram,
        bigram_ce_K=bigram,
        unigram_bits_per_second=86.1328 * sum(unigram) / math.log(2),
        bigram_bits_per_second=86.1328 * sum(bigram) / math.log(2),
        data_entropy_K=[value - 0.1 for value in unigram],
    )
    for step in range(10, steps + 1, 10):
        done = step / steps
        level = 6.95 - (6.95 * (1 - goal)) * (1 - math.exp(-4 * done))
        loss = level + 0.15 * rng.standard_normal()
        norm = None if step == 300 else 0.4 + 2 * math.exp(-8 * done) * (1 + 0.3 * rng.random())
        rate = 1e-3 * min(step / 100, 0.55 + 0.45 * math.cos(math.pi * done))
        log.append(
            "train", step, loss=loss, grad_norm=norm, lr=rate, seconds=0.4,
            frames_per_second=5100 + 200 * rng.standard_normal(), skipped=int(step >= 300), null_share=0.1,
        )  # fmt: skip
        if step % (steps // 6) == 0:
            for weights, worse in (("ema", 0.0), ("raw", 0.06)):
                ce = [level - 0.7 + 0.12 * k + worse for k in range(BOOKS)]
                log.append(
                    "valid", step, weights=weights, ce_K=ce, eos_ce=0.01, entropy_K=[c - 0.15 * done for c in ce],
                    bits_per_second=86.1328 * sum(ce) / math.log(2),
                )  # fmt: skip
            log_played(log, step, done)
            log.append("checkpoint", step, path=f"checkpoints/step-{step:09d}", best=True)
    log.append("note", steps, text="step-000000500 is damaged; trying the one before it")
    log.append("end", steps, reason="finished")


def log_played(log: EventLog, step: int, done: float, guidances: tuple[float, ...] = (1.0, 3.0)) -> None:
    """The figures of demos that come nearer to the data, the freer the temperature."""
    log.append("demo_data", step, **DATA)
    for weights, temperature in (("ema", 0.0), ("ema", 0.5), ("ema", 1.0), ("raw", 1.0)):
        for guidance in guidances:
            level = (0.3 + 4.6 * temperature) * (0.8 + 0.2 * done) - 0.1 * guidance
            log.append(
                "demo_figures", step, weights=weights, temperature=temperature, guidance=guidance, told=True, items=4,
                entropy=level, entropy_K=[level + 0.05 * k for k in range(BOOKS)], coverage=0.2 * temperature + 0.01,
                repetition=0.9 - 0.85 * temperature, silence=0.3 * (1 - done), model_entropy=4 + temperature, ended=0.0,
            )  # fmt: skip


def write_demos(run: Run, step: int = 600) -> Path:
    folder = run.demos_path / f"step-{step:09d}"
    folder.mkdir(parents=True)
    waves = {"original.flac": music(1), "reconstruction.flac": music(1) * 0.9, "continuation.flac": music(5)}
    demos: list[dict[str, Any]] = [
        {"kind": "original", "file": "original.flac", "clip": "band-0007"},
        {"kind": "reconstruction", "file": "reconstruction.flac", "clip": "band-0007"},
    ]
    for temperature in (0.0, 0.5, 1.0):
        for weights in ("ema", "raw"):
            name = f"t{temperature:g}-{weights}.flac"
            waves[name] = music(int(10 * temperature)) if temperature else tone(1.5, 220)
            if (temperature, weights) == (1.0, "raw"):
                waves[name] = np.clip(5 * waves[name], -1, 1)
            demos.append(
                {
                    "kind": "played", "file": name, "weights": weights, "temperature": temperature, "guidance": 1.0,
                    "seed": 0, "words": {"tags": ["techno", "128 bpm"], "text": ""}, "prompt": None, "ended": False,
                    "metrics": {
                        "entropy_K": [(0.2 + 4.6 * temperature) * (1 + 0.02 * k) for k in range(BOOKS)],
                        "coverage_K": [0.01 + 0.2 * temperature] * BOOKS,
                        "repetition_K": [0.95 - 0.9 * temperature] * BOOKS,
                        "silence": 0.25,
                        "model_entropy_K": [4.5] * BOOKS,
                    },
                }
            )  # fmt: skip
    demos.append(
        {
            "kind": "continuation", "file": "continuation.flac", "weights": "ema", "temperature": 0.5, "guidance": 3.0,
            "seed": 0, "words": {"tags": [], "text": "a slow walk"}, "prompt": "band-0007, first 2 s",
            "metrics": {"entropy_K": [4.0] * BOOKS},
        }
    )  # fmt: skip
    for name, wave in waves.items():
        soundfile.write(folder / name, wave, RATE)
    content = {"schema": 2, "step": step, "demos": demos, "data": DATA, "figures": []}
    (folder / "demos.json").write_text(json.dumps(content))
    return folder


def write_checkpoint(run: Run, step: int, score: float | None) -> Path:
    folder = run.checkpoints_path / f"step-{step:09d}"
    folder.mkdir(parents=True)
    for part in ("model", "ema", "optimizer"):
        save_file({"head.weight": np.zeros((25, 40), np.float32)}, folder / f"{part}.safetensors")
    (folder / "state.json").write_text(json.dumps({"score": score, "step": step}))
    (folder / "manifest.json").write_text("{}")
    return folder


def finish_run(root: Path) -> Run:
    """A finished run with everything in it."""
    made = make_run(root)
    log_training(made)
    write_demos(made)
    write_checkpoint(made, 400, 5410.0)
    write_checkpoint(made, 600, 5390.0)
    return made

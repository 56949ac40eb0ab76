"""Held-out curves of the same small model under other optimizers, schedules and losses: what each option is worth here.

    python bench/curves.py [--pack PACK] [--steps 400] [--seeds 2] [--picture docs/curves.png]

Without --pack the built-in band is played and encoded first (minutes). Every training goes through the engine; the
held-out figure is the plain one for all of them, bits per second of audio. Prints a table (mean and range over the
seeds) and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from partimento.audio.synth import render_band
from partimento.codecs.encode import encode
from partimento.config import parse
from partimento.runs.events import curve, read_events
from partimento.training.engine import train

BASE = ["optim.lr=0.003", "optim.warmup=40"]
VARIANTS = {
    "AdamW, cosine": [],
    "AdamW, warmup-stable-decay": ["optim.schedule=wsd"],
    "AdamW, linear to 0": ["optim.schedule=linear"],
    "Muon": ["optim.name=muon", "optim.muon_lr=0.02"],
    "AdaGC": ["optim.adagc=true"],
    "label smoothing 0.05": ["loss.label_smoothing=0.05"],
    "learned book weights": ["loss.codebook_weights=learned"],
    "without QK-norm": ["model.qk_norm=false"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="curves_") as scratch:
        folder = Path(scratch)
        pack = options.pack or _band(folder)
        found = {
            name: [_trained(folder, pack, name, changes, options.steps, seed) for seed in range(options.seeds)]
            for name, changes in VARIANTS.items()
        }
    print(f"\n{'':<28}{'bits/s held out':>16}{'range':>18}{'skipped':>9}")
    results = []
    for name, runs in found.items():
        ends = [run[-1][1] for run, _ in runs]
        row = {"variant": name, "mean": statistics.mean(ends), "least": min(ends), "most": max(ends)}
        row["skipped"] = sum(skipped for _, skipped in runs)
        results.append(row)
        print(f"{name:<28}{row['mean']:>16.0f}{row['least']:>9.0f}{row['most']:>9.0f}{row['skipped']:>9}")
    if options.picture:
        _draw(options.picture, {name: [run for run, _ in runs] for name, runs in found.items()})
    print(json.dumps({"bench": "curves", "steps": options.steps, "seeds": options.seeds, "results": results}))


def _band(folder: Path) -> Path:
    render_band(folder / "band", 200, seed=0)
    encode([folder / "band"], folder / "pack")
    return folder / "pack"


def _trained(
    folder: Path, pack: Path, name: str, changes: list[str], steps: int, seed: int
) -> tuple[list[tuple[int, float]], int]:
    """The held-out curve of the averaged weights, and how many steps were skipped."""
    tree = {
        "family": "rvq",
        "data": {"pack": str(pack), "window": 128},
        "model": {"width": 128, "layers": 4, "heads": 4},
        "train": {
            "steps": steps,
            "valid_every": max(1, steps // 10),
            "valid_items": 32,
            "save_every": steps,
            "seed": seed,
        },
        "demo": {"temperatures": []},
    }
    run = train(parse(tree, [*BASE, *changes]), runs=folder / "runs", run=f"{list(VARIANTS).index(name)}-{seed}")
    events = read_events(run.events_path)
    bits = [(step, float(value)) for step, value in curve(events, "valid", "bits_per_second", weights="ema")]
    print(f"{name:<28} seed {seed}  {bits[-1][1]:.0f} bits/s", flush=True)
    return bits, int(curve(events, "train", "skipped")[-1][1])


def _draw(path: Path, curves: dict[str, list[list[tuple[int, float]]]]) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=110)
    for number, (name, runs) in enumerate(curves.items()):
        steps = [step for step, _ in runs[0]]
        values = [[value for _, value in run] for run in runs]
        columns = list(zip(*values, strict=True))
        axes.plot(steps, [statistics.mean(column) for column in columns], color=f"C{number}", label=name, linewidth=1.4)
        least, most = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(steps, least, most, color=f"C{number}", alpha=0.15)
    axes.set(xlabel="optimizer step", ylabel="held-out bits per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()

"""Does an adversary help a cleaner, and Muon, and bf16? System B's question at CPU size, with seeds and intervals.

    python bench/ablation_gan.py --out DIR --audio TUNES [--jobs 2] [--steps 400] [--long RUN] [--docs PAGE]
    python bench/ablation_gan.py --out DIR --audio TUNES --quick        a few steps of everything, in some minutes

AdamW or Muon (both players), no adversary or one from step 0, float32 or bf16: eight ways to train one small cleaner of
pitch-shifted music on one set of pairs, with one order of the data a seed and one number of steps. Judged on recordings
that were held out, at every shift: distances to the original against those of the input, and the artifacts that the
author of system B met by ear. `--long` adds a run of the same data that was trained for longer, shift by shift.

Pairs are written once; a finished run is not repeated, an interrupted one goes on. Prints tables and, last, one JSON
object; `--docs` writes the page.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partimento import commit
from partimento.config import RestoreConfig, parse
from partimento.lab.restored.artifacts import faults
from partimento.lab.restored.intervals import Interval, difference_over_seeds, paired_bootstrap
from partimento.lab.restored.metrics import compare
from partimento.runs.events import read_events
from partimento.runs.run import Run
from partimento.training.engine import train
from partimento.training.restorer import load_restorer
from partimento.training.tasks.pairs import Excerpt, Pairs

SEMITONES = (-12, -7, -3, 3, 7, 12)
OPTIMIZERS, PLAYERS, PRECISIONS = ("adamw", "muon"), ("none", "gan"), ("fp32", "bf16")
FIGURES = ("mel7", "lsd", "si_sdr", "lsd_high")
UNITS = {"mel7": "", "lsd": " dB", "si_sdr": " dB", "lsd_high": " dB"}
ARTIFACTS = ("onset_pop", "line", "comb")
EXCERPT_SECONDS = 4.0


@dataclass(frozen=True)
class Job:
    pairs: Path
    optimizer: str
    players: str
    precision: str
    seed: int
    steps: int
    out: Path

    @property
    def cell(self) -> str:
        return f"{self.optimizer}-{self.players}-{self.precision}"

    @property
    def name(self) -> str:
        return f"{self.cell}-{self.seed}-{self.steps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="keeps everything; what is done is not redone")
    parser.add_argument("--audio", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--long", type=Path, help="a run or restorer to judge shift by shift, on the same held-out pairs"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--docs", type=Path, help="page that is written")
    options = parser.parse_args()
    steps, seeds = (12, 2) if options.quick else (options.steps, options.seeds)
    pairs = _written(options.out / "pairs", options.audio)
    jobs = [
        Job(pairs, optimizer, players, precision, seed, steps, options.out)
        for seed in range(seeds)
        for optimizer, players, precision in itertools.product(OPTIMIZERS, PLAYERS, PRECISIONS)
    ]
    found = _all(jobs, options.jobs)
    cells = {
        cell: [found[job.name] for job in jobs if job.cell == cell] for cell in dict.fromkeys(j.cell for j in jobs)
    }
    long = _judged(options.long, pairs) if options.long else None
    text = _page(cells, jobs, pairs, long, options.long)
    print(text)
    if options.docs:
        commit.text(options.docs, text)
    summary = {cell: {name: _mean_of(results, name) for name in FIGURES} for cell, results in cells.items()}
    effects = {title: _effect(cells, *sides).to_json() for title, sides in _contrasts()}
    print(json.dumps({"bench": "ablation_gan", "steps": steps, "seeds": seeds, "cells": summary, "mel7": effects}))


# Runs


def _written(folder: Path, audio: Path) -> Path:
    from partimento.training.pairwriting import write_pairs

    write_pairs([audio], folder, task="clean", semitones=[float(n) for n in SEMITONES])
    return folder


def _all(jobs: Sequence[Job], processes: int) -> dict[str, dict[str, Any]]:
    found = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_run, job): job for job in jobs}
        for number, future in enumerate(as_completed(waiting), 1):
            name = waiting[future].name
            found[name] = future.result()
            distance = np.mean([row["output"]["mel7"] for row in found[name]["rows"]])
            print(f"{number}/{len(jobs)}  {name:<28} mel7 {distance:.3f}", file=sys.stderr, flush=True)
    return found


def _run(job: Job) -> dict[str, Any]:
    """Train and judge; in a process of its own."""
    kept = job.out / "results" / f"{job.name}.json"
    if kept.exists():
        result: dict[str, Any] = json.loads(kept.read_text())
        return result
    torch.set_num_threads(1)
    run = train(_settings(job), runs=job.out / "runs", run=job.name)
    events = read_events(run.events_path)
    lines = [event for event in events if event["kind"] == "train"]
    # The median over the lines of the log: pauses for validations and the like are not in it.
    seconds = float(np.median([event["seconds_p50"] for event in lines if event.get("seconds_p50")] or [np.nan]))
    alarms = sorted({event["alarm"] for event in events if event["kind"] == "alarm"})
    facts = {"seed": job.seed, "step_seconds": seconds, "alarms": alarms, "rows": _judged(run.path, job.pairs)}
    commit.record(kept, facts)
    return _run(job)


def _settings(job: Job) -> RestoreConfig:
    """A spectral cleaner and an adversary of a size that a core can train; 3 crops of 0.37 s a step."""
    config = parse(
        {
            "family": "restore",
            "data": {"pairs": str(job.pairs), "crop": 16384},
            "model": {"net": "spectral", "width": 160, "blocks": 6},
            "adversary": {
                "start": 0 if job.players == "gan" else None,
                "periods": [2, 3, 5, 7, 11],
                "windows": [1024],
                "period_width": 4,
                "window_width": 4,
            },
            # System B's 10 L1 beside the mel distance (150 here) assumes phase that a round trip does not keep: the
            # least error of samples is then silence, and the distance does not fall.
            "loss": {"wave": 15.0},
            "optim": {
                "name": job.optimizer,
                "lr": 1e-3,
                "muon_lr": 1e-2,
                "warmup": min(20, job.steps // 4),
                "batch": 3,
                "ema": 0.98,
            },
            "train": {
                "steps": job.steps,
                "precision": job.precision,
                "valid_every": job.steps,
                "valid_items": 12,
                "save_every": max(1, job.steps // 4),
                "log_every": max(1, job.steps // 40),
                "seed": job.seed,
                "device": "cpu",
            },
            "demo": {"temperatures": []},
        }
    )
    assert isinstance(config, RestoreConfig)
    return config


@torch.no_grad()
def _judged(run: Path, pairs: Path) -> list[dict[str, Any]]:
    """Every held-out recording at every shift: figures of the input and of what was made of it."""
    restorer = load_restorer(run)
    rows = []
    for excerpt, figures in _held_out(pairs):
        made_N = restorer.generator(torch.from_numpy(excerpt.damaged_N)[None])[0].numpy()
        made = _figures(made_N, excerpt.target_N, restorer.sample_rate)
        rows.append({"source": excerpt.source, "semitones": excerpt.semitones, "input": figures, "output": made})
    return rows


def _held_out(pairs: Path) -> Iterator[tuple[Excerpt, dict[str, Any]]]:
    """The excerpts, with the figures of the input, which are the same for every run and kept."""
    config = parse({"family": "restore", "data": {"pairs": str(pairs)}})
    assert isinstance(config, RestoreConfig)
    excerpts, kept = Pairs.open(config.data).judged(10**6, EXCERPT_SECONDS), pairs.parent / "input.json"
    if not kept.exists():
        found = [_figures(one.damaged_N, one.target_N, config.data.sample_rate) for one in excerpts]
        commit.record(kept, {"figures": found})
    yield from zip(excerpts, json.loads(kept.read_text())["figures"], strict=True)


def _figures(wave_N: NDArray[np.float32], target_N: NDArray[np.float32], sample_rate: int) -> dict[str, Any]:
    figures = compare(wave_N[None], target_N[None], sample_rate).figures
    flaws = faults(wave_N, target_N, sample_rate)
    return {name: figures[name] for name in FIGURES} | {"artifacts": list(flaws.found)}


# Figures


def _by_source(rows: Sequence[dict[str, Any]], name: str, *, gained: bool) -> dict[str, list[float]]:
    """{source: values over the shifts} of the output, or of output - input."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        values = (row["output"][name], row["input"][name])
        if None not in values:
            found[row["source"]].append(values[0] - values[1] if gained else values[0])
    return dict(found)


def _mean_of(results: Sequence[dict[str, Any]], name: str) -> float:
    values = [v for one in results for vs in _by_source(one["rows"], name, gained=False).values() for v in vs]
    return float(np.mean(values))


def _gain(results: Sequence[dict[str, Any]], name: str) -> Interval:
    """Output - input, over sources and seeds."""
    inputs = {
        str(one["seed"]): {source: [0.0] * len(v) for source, v in _by_source(one["rows"], name, gained=True).items()}
        for one in results
    }
    return difference_over_seeds(
        inputs, {str(one["seed"]): _by_source(one["rows"], name, gained=True) for one in results}
    )


Sides = tuple[dict[str, str], dict[str, str]]


def _contrasts() -> Iterator[tuple[str, Sides]]:
    """What is compared with what, all else being equal."""
    for precision, optimizer in itertools.product(PRECISIONS, OPTIMIZERS):
        sides = tuple({"optimizer": optimizer, "players": p, "precision": precision} for p in PLAYERS)
        yield f"adversary: with - without ({optimizer}, {precision})", sides  # type: ignore[misc]
    for players in PLAYERS:
        sides = tuple({"optimizer": o, "players": players, "precision": "fp32"} for o in OPTIMIZERS)
        yield f"Muon - AdamW ({players}, fp32)", sides  # type: ignore[misc]
    for players, optimizer in itertools.product(PLAYERS, OPTIMIZERS):
        sides = tuple({"optimizer": optimizer, "players": players, "precision": p} for p in PRECISIONS)
        yield f"bf16 - fp32 ({players}, {optimizer})", sides  # type: ignore[misc]


def _effect(
    cells: dict[str, list[dict[str, Any]]], one: dict[str, str], two: dict[str, str], name: str = "mel7"
) -> Interval:
    def condition(side: dict[str, str]) -> dict[str, dict[str, list[float]]]:
        results = cells[f"{side['optimizer']}-{side['players']}-{side['precision']}"]
        return {str(result["seed"]): _by_source(result["rows"], name, gained=False) for result in results}

    return difference_over_seeds(condition(one), condition(two))


# The page


def _page(
    cells: dict[str, list[dict[str, Any]]],
    jobs: Sequence[Job],
    pairs: Path,
    long: list[dict[str, Any]] | None,
    long_run: Path | None,
) -> str:
    sources = len({row["source"] for results in cells.values() for row in results[0]["rows"]})
    lines = [
        "# An adversary, Muon, bf16: which of them help a cleaner?",
        "",
        "Written by its script; the command that made it:",
        "",
        "```",
        shlex.join(["python", "bench/ablation_gan.py", *sys.argv[1:]]),
        "```",
        "",
        "Eight ways to train one spectral cleaner (STFT in and out, 6 ConvNeXt blocks of width 160), "
        f"{jobs[0].steps} steps of 3 crops of 0.37 s, {len({job.seed for job in jobs})} seeds. The music was shifted by"
        f" {', '.join(f'{n:+d}' for n in SEMITONES)} semitones and back. Held out: {sources} recordings at every shift."
        " Intervals are 95 %, over recordings and seeds at once (`lab/restored/intervals.py`). The same number of steps"
        " is not the same time: seconds a step stand beside. What a small network learns in some hundred steps says"
        " what is learned first, not where long trainings end.",
        "",
        "## Against the input",
        "",
        "Output minus input; below 0 is better for mel7 and the log-spectral distance (LSD), above 0 for SI-SDR."
        " Artifacts: shares of the outputs in which a detector found one (of the inputs in the last row).",
        "",
        *_against_input(cells),
        "",
        "## One against the other",
        "",
        "Second minus first, all else equal: same seeds, same crops, same held-out pairs. An interval without 0 is"
        " bold.",
        "",
        *_one_against_other(cells),
        "",
    ]
    lines += ["## What it says", "", *_reading(cells), ""]
    if long is not None:
        lines += [
            "## Trained for longer, shift by shift",
            "",
            f"{_told_of(long_run)} The same held-out pairs; intervals over {sources} recordings.",
            "",
            *_by_shift(long),
            "",
        ]
    return "\n".join("\n".join(textwrap.wrap(line, 120)) if line[:1].isupper() else line for line in lines)


def _told_of(run: Path | None) -> str:
    """What the longer run was, where it is a run and not a folder of weights."""
    if run is None or not (run / "run.json").exists():
        return "A restorer that was trained elsewhere."
    config, events = Run.open(run).record["config"], read_events(Run.open(run).events_path)
    optim, steps = config["optim"], config["train"]["steps"]
    seconds = float(np.median([event["seconds_p50"] for event in events if event.get("seconds_p50")]))
    return (
        f"Trained for {steps:,} steps of {optim['batch']} crops without adversary, by {optim['name']}: the network as"
        f" it is designed ({config['model']['net']}), on tunes beside other recordings, in some"
        f" {steps * seconds / 60:.0f} minutes of one core."
    )


def _against_input(cells: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "| | mel7 | gain in mel7 | gain in LSD | gain in SI-SDR | onset pop | lines | comb | s a step | alarms |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for cell, results in cells.items():
        gains = [_told(_gain(results, name), UNITS[name]) for name in ("mel7", "lsd", "si_sdr")]
        shares = [_share(results, "output", artifact) for artifact in ARTIFACTS]
        seconds = np.median([one["step_seconds"] for one in results])
        alarms = ", ".join(sorted({alarm for one in results for alarm in one["alarms"]})) or "none"
        title = cell.replace("-none-", ", no adversary, ").replace("-gan-", ", adversary, ")
        row = [title, f"{_mean_of(results, 'mel7'):.3f}", *gains, *shares, f"{seconds:.2f}", alarms]
        yield "| " + " | ".join(row) + " |"
    some = next(iter(cells.values()))
    distance = np.mean([row["input"]["mel7"] for row in some[0]["rows"]])
    shares = [_share(some[:1], "input", artifact) for artifact in ARTIFACTS]
    yield "| " + " | ".join(["the input", f"{distance:.3f}", "", "", "", *shares, "", ""]) + " |"


def _reading(cells: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """What the intervals allow to be said, and nothing else."""
    gains = [_gain(results, "mel7") for results in cells.values()]
    better = sum(gain.excludes_zero and gain.mean < 0 for gain in gains)
    yield f"- {better} of the {len(cells)} cleaners bring music nearer to the original, by an interval without 0."
    for title, of in (("An adversary", "adversary:"), ("Muon instead of AdamW", "Muon"), ("bf16", "bf16")):
        effects = [_effect(cells, *sides) for name, sides in _contrasts() if name.startswith(of)]
        worse, gain = (sum(e.excludes_zero and sign * e.mean > 0 for e in effects) for sign in (1, -1))
        open_ = len(effects) - worse - gain
        means = " to ".join(f"{value:+.3f}" for value in (min(e.mean for e in effects), max(e.mean for e in effects)))
        yield (
            f"- {title}: worse in mel7 in {worse} of {len(effects)} comparisons, better in {gain}, undecided in {open_}"
            f" (means {means})."
        )
    seconds = {
        players: np.median([one["step_seconds"] for cell, rs in cells.items() if f"-{players}-" in cell for one in rs])
        for players in PLAYERS
    }
    yield f"- A step with the adversary took {seconds['gan'] / seconds['none']:.1f} times as long (median, one core)."
    sides = {"-none-": "without adversary", "-gan-": "with it", "adamw": "of AdamW's", "muon": "of Muon's"}
    for artifact in ARTIFACTS:
        told = []
        for part, name in sides.items():
            rows = [row for cell in cells if part in cell for one in cells[cell] for row in one["rows"]]
            told.append(f"{100 * np.mean([artifact in row['output']['artifacts'] for row in rows]):.0f} % {name}")
        yield f"- {artifact.replace('_', ' ').capitalize()}, share of the outputs: {', '.join(told)}."


def _share(results: Sequence[dict[str, Any]], which: str, artifact: str) -> str:
    found = [artifact in row[which]["artifacts"] for one in results for row in one["rows"]]
    return f"{100 * np.mean(found):.0f} %"


def _one_against_other(cells: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "| | mel7 | LSD | SI-SDR |"
    yield "|---|---|---|---|"
    for title, sides in _contrasts():
        told = [_told(_effect(cells, *sides, name=name), UNITS[name]) for name in ("mel7", "lsd", "si_sdr")]
        yield f"| {title} | " + " | ".join(told) + " |"


def _by_shift(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| semitones | mel7 of the input | of the output | gain | gain in LSD | gain in SI-SDR | better in |"
    yield "|---|---|---|---|---|---|---|"
    for shift in sorted({row["semitones"] for row in rows}):
        mine = [row for row in rows if row["semitones"] == shift]
        means = [np.mean([row[which]["mel7"] for row in mine]) for which in ("input", "output")]
        gains = [
            _told(paired_bootstrap(_by_source(mine, name, gained=True)), UNITS[name])
            for name in ("mel7", "lsd", "si_sdr")
        ]
        won = sum(row["output"]["mel7"] < row["input"]["mel7"] for row in mine)
        yield f"| {shift:+g} | {means[0]:.3f} | {means[1]:.3f} | " + " | ".join(gains) + f" | {won} of {len(mine)} |"


def _told(interval: Interval, unit: str) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.3f}{unit}"
    text = f"{interval.mean:+.3f}{unit} [{interval.low:+.3f}, {interval.high:+.3f}]"
    return f"**{text}**" if interval.excludes_zero else text


if __name__ == "__main__":
    main()

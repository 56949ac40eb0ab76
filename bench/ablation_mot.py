"""A frozen Llama that plays: do samples follow captions, and what do transplanted experts add? CPU size, with seeds.

    python bench/ablation_mot.py --out DIR [--jobs 2] [--steps 1200] [--docs docs/mot.md]
    python bench/ablation_mot.py --out DIR --quick        a few steps of everything, in some minutes

Made in the run: a Llama that has learned to write captions of the built-in band, and a MusicGen decoder that has
learned the codes of other songs of it, both of transformers (bench/mot_parts.py). Then captioned loops are learned in
six ways, with one order of the data a seed and one number of steps:

adapters   the Llama is frozen; in every layer stands a feed-forward of the MusicGen, frozen too; trained are the two
           adapters around it, and the rows of the codes (system D)
random     the same, of a MusicGen as it was drawn: what the music in the experts is worth
experts    the experts are trained too, from the MusicGen's
scratch    the experts are trained too, from random ones
mixture    the Llama is frozen; audio has blocks of its own, which begin as copies (the full mixture of transformers)
full       no experts, and all of the Llama is trained: full fine-tuning

Each way has the learning rate, of three, at which it came furthest in 300 steps of a seed that counts for nothing else.

Each loop is told in four wordings. Played are the first of them, at guidance 1 and 2; one that no training saw; and
captions of loops that do not exist, the style of one, the tempo of another and the key of a third. Style, tempo and key
of what is played are estimated from the audio (partimento.lab.labels) and held against what was asked for. Held-out
loss is of loops of other songs.

A finished run is not repeated, an interrupted one goes on. Prints tables and, last, one JSON object; with --docs the
tables are put between the marks of that page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mot_parts
from follow import Ask, chance, dealt, follows, listened
from mot_figures import contrasts, effect, report, summary_of
from partimento import commit
from partimento.audio.captions import caption
from partimento.audio.synth import labels_of, render_band
from partimento.codecs.codec import decode_whole, open_like
from partimento.codecs.encode import encode
from partimento.config import MotConfig, parse
from partimento.runs import checkpoint
from partimento.runs.events import curve, read_events
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.pack import Pack
from partimento.tokens.text import Words
from partimento.tokens.writer import PackWriter
from partimento.training.engine import train
from partimento.training.player import Player

FROZEN = [r"experts\.\d+\.(up|down)\."]
ARMS: dict[str, dict[str, Any]] = {
    "adapters": {"experts_from": "musicgen", "freeze": FROZEN},
    "random": {"experts_from": "drawn", "freeze": FROZEN},
    "experts": {"experts_from": "musicgen"},
    "scratch": {"expert_width": mot_parts.EXPERT_WIDTH, "expert_inner": mot_parts.EXPERT_INNER},
    "mixture": {"experts": "full"},
    "full": {"experts": "none", "train_backbone": "all"},
}
WAYS = {
    "guidance 1": (1.0, "first"),
    "guidance 2": (2.0, "first"),
    "other words": (1.0, "unseen"),
    "dealt anew": (1.0, "dealt"),
}
RATES = (2e-3, 6e-3, 1.5e-2)
SEARCH_SEED, SEARCH_STEPS = 99, 300
WORDINGS = 4
_BEGIN, _END = "<!-- figures: bench/ablation_mot.py -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Job:
    arm: str
    seed: int
    steps: int
    rate: float
    seconds: float
    out: Path

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}-{self.steps}-{self.rate:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="keeps everything; what is done is not redone")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--loops", type=int, default=36, help="of the band; two thirds or so are learned from")
    parser.add_argument("--books", type=int, default=4, help="codebooks of nine")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a sample")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--docs", type=Path, help="page whose figures are replaced")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds, options.loops = 20, 2, 12
    parts = prepare(options)
    rates = search(options)
    jobs = [
        Job(arm, seed, options.steps, rates[arm], options.seconds, options.out)
        for seed in range(options.seeds)
        for arm in options.arms
    ]
    found = run_all(jobs, options.jobs)
    arms = {arm: [found[job.name] for job in jobs if job.arm == arm] for arm in options.arms}
    pack = Pack.open(options.out / "pack")
    text = report(arms, parts, asks_of(pack), options)
    print(text)
    if options.docs:
        page = options.docs.read_text(encoding="utf-8")
        before, after = page[: page.index(_BEGIN) + len(_BEGIN)], page[page.index(_END) :]
        commit.text(options.docs, f"{before}\n\n{text}\n\n{after}")
    summary = {arm: summary_of(results) for arm, results in arms.items()}
    effects = {title: effect(arms[one], arms[two]).to_json() for one, two, title in contrasts(arms)}
    facts = {
        "steps": options.steps,
        "seeds": options.seeds,
        "rates": rates,
        "chance": chance(asks_of(pack)),
        "parts": parts,
    }
    print(json.dumps({"bench": "ablation_mot", **facts, "arms": summary, "following": effects}))


# Data and models


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Loops with captions, other loops for the MusicGen, and the two models; what those reached."""
    out, many = options.out, 3 * options.loops
    for name, seed, loops in (("pack", 0, options.loops), ("other", 1, many)):
        if not (out / name).exists():
            render_band(out / f"{name}-music", loops, seed, captions=True)
        encode([out / f"{name}-music"], out / name, books=(options.books,))
    write_wordings(Pack.open(out / "pack"), out / "told")
    steps = (20, 8) if options.quick else (600, 500)
    kinds = {"llama": (steps[0],), "musicgen": (steps[1],), "drawn": (0,)}
    with ProcessPoolExecutor(min(2, options.jobs), mp_context=get_context("spawn")) as pool:
        made = {name: pool.submit(_make, name, out, *count) for name, count in kinds.items()}
        return {name: future.result() for name, future in made.items()}


def write_wordings(pack: Pack, to: Path) -> None:
    """Each clip several times, with another caption of the same labels: what the words mean is all that they share."""
    if to.exists():
        return
    writer = PackWriter(to, pack.spec)
    for clip in range(len(pack.clips)):
        index = int(pack.clips.clip[clip][:5])
        for wording in range(WORDINGS):
            words = caption(labels_of(0, index), wording, index)
            name, source = f"{index:05d}-{wording}", pack.clips.source[clip]
            writer.add(pack.read(clip), clip=name, source=source, tags=pack.clips.tags[clip], caption=words)
    writer.finish()


def _make(name: str, out: Path, steps: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    if name == "llama":
        return mot_parts.write_llama(out / name, steps)
    return mot_parts.write_musicgen(out / name, Pack.open(out / "other") if name == "musicgen" else None, steps)


def settings(job: Job) -> MotConfig:
    """Tiny windows first, most of them at the beginnings of clips, where words matter: further on, the music that is
    there already says what follows. Then longer ones."""
    model = dict(ARMS[job.arm])
    if "experts_from" in model:
        model["experts_from"] = str(job.out / model["experts_from"])
    config = parse(
        {
            "family": "mot",
            "data": {
                "pack": str(job.out / "told"),
                "text": "caption",
                "window": 8,
                "begin_share": 0.6,
                "null_share": 0.15,
            },
            "model": {"backbone": str(job.out / "llama"), "text_length": 36, **model},
            "optim": {"lr": job.rate, "warmup": min(60, job.steps // 4), "batch": 192, "ema": 0.99},
            "train": {
                "steps": job.steps,
                "stages": [
                    {"start": 5 * job.steps // 12, "window": 64, "batch": 32},
                    {"start": 2 * job.steps // 3, "window": 256, "batch": 8},
                ],
                "valid_every": max(1, job.steps // 6),
                "valid_items": 16,
                "save_every": max(1, job.steps // 4),
                "log_every": max(1, job.steps // 60),
                "seed": job.seed,
                "device": "cpu",
            },
            "demo": {"temperatures": []},
        }
    )
    assert isinstance(config, MotConfig)
    return config


def asks_of(pack: Pack) -> list[Ask]:
    """What the loops that were learned from are."""
    asks = []
    for clip in pack.split("train"):
        style, tempo, key, *instruments = pack.clips.tags[int(clip)]
        song = str(pack.clips.source[int(clip)])
        asks.append(Ask(style, float(tempo.removesuffix(" bpm")), key, tuple(instruments), song))
    return asks


def asked(pack: Pack, how: str) -> list[tuple[Ask, Words]]:
    """What is played for each loop that was learned from: its labels in the first of its wordings or in one that was
    never told, or labels dealt anew among the loops."""
    asks, pairs = asks_of(pack), []
    asks = dealt(asks) if how == "dealt" else asks
    for clip, ask in zip(pack.split("train"), asks, strict=True):
        index = int(pack.clips.clip[int(clip)][:5])
        labels = replace(labels_of(0, index), style=ask.style, tempo=round(ask.tempo), key=ask.key)
        pairs.append((ask, Words(text=caption(labels, 0 if how == "first" else WORDINGS, index))))
    return pairs


# Runs


def search(options: argparse.Namespace) -> dict[str, float]:
    """The rate of each way: of RATES, that with the least training loss after a few steps."""
    steps = min(SEARCH_STEPS, options.steps)
    jobs = [Job(arm, SEARCH_SEED, steps, rate, options.seconds, options.out) for arm in options.arms for rate in RATES]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        losses = dict(zip(jobs, pool.map(_searched, jobs), strict=True))
    for arm in options.arms:
        found = "  ".join(f"{job.rate:g}: {loss:.3f}" for job, loss in losses.items() if job.arm == arm)
        print(f"rates of {arm:<9} {found}", file=sys.stderr, flush=True)
    return {arm: min((loss, job.rate) for job, loss in losses.items() if job.arm == arm)[1] for arm in options.arms}


def _searched(job: Job) -> float:
    """Mean training loss of the last tenth of the steps, all in short windows."""
    kept = job.out / "searched" / f"{job.name}.json"
    if not kept.exists():
        torch.set_num_threads(1)
        config = settings(job)
        told = {"stages": [], "valid_every": job.steps, "log_every": max(1, job.steps // 60)}
        short = config.model_copy(update={"train": config.train.model_copy(update=told)})
        run = train(short, runs=job.out / "runs", run=job.name)
        losses = [loss for step, loss in curve(read_events(run.events_path), "train", "loss") if step > 0.9 * job.steps]
        commit.record(kept, {"loss": float(np.mean(losses))})
    found: dict[str, float] = json.loads(kept.read_text())
    return found["loss"]


def run_all(jobs: Sequence[Job], processes: int) -> dict[str, dict[str, Any]]:
    found = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_run, job): job for job in jobs}
        for number, future in enumerate(as_completed(waiting), 1):
            name = waiting[future].name
            found[name] = one = future.result()
            heard = {way: round(float(np.mean(hits)), 2) for way, hits in one["hits"].items()}
            print(f"{number}/{len(jobs)}  {name:<18} {one['minutes']:.1f} min  {heard}", file=sys.stderr, flush=True)
    return found


def _run(job: Job) -> dict[str, Any]:
    """Train, play and listen; in a process of its own."""
    kept = job.out / "results" / f"{job.name}.json"
    if kept.exists():
        result: dict[str, Any] = json.loads(kept.read_text())
        return result
    torch.set_num_threads(1)
    run = train(settings(job), runs=job.out / "runs", run=job.name)
    events = read_events(run.events_path)
    held_out = [float(np.mean(ce_K)) for _, ce_K in curve(events, "valid", "ce_K", weights="ema")]
    lines = [event for event in events if event["kind"] == "train"]
    seconds = float(np.median([event["seconds_p50"] for event in lines if event.get("seconds_p50")][len(lines) // 2 :]))
    path = checkpoint.newest(run.checkpoints_path)
    assert path is not None
    player = Player.from_checkpoint(path)
    trained = sum(weight.numel() for weight in player.module.parameters() if weight.requires_grad)
    facts = {
        "seed": job.seed,
        "rate": job.rate,
        "trained": trained,
        "step_seconds": seconds,
        "minutes": (events[-1]["time"] - events[0]["time"]) / 60,
        "loss": lines[-1]["loss"],
        "held_out": {"best": min(held_out), "last": held_out[-1]},
        "songs": [ask.song for ask in asks_of(Pack.open(job.out / "pack"))],
        "hits": played(player, Pack.open(job.out / "pack"), job.seconds),
    }
    commit.record(kept, facts)
    return facts


def played(player: Player, pack: Pack, seconds: float) -> dict[str, list[list[bool]]]:
    """For every way of playing and every training loop: whether tempo, key and style are those of its labels."""
    codec, spec = open_like(pack.spec), pack.spec
    hits = {}
    for way, (guidance, how) in WAYS.items():
        pairs = asked(pack, how)
        items = player.play(
            frames=round(seconds * float(spec.frame_rate)),
            seeds=range(len(pairs)),
            rules=Rules(),
            words=[words for _, words in pairs],
            guidance=Guidance(guidance),
        )
        clips = [item.codes_TK.numpy() for item in items]
        found = [listened(decode_whole(codec, one), spec.sample_rate) if len(one) else None for one in clips]
        hits[way] = [list(follows(ask, one).values()) for (ask, _), one in zip(pairs, found, strict=True)]
    return hits


if __name__ == "__main__":
    main()

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

Each loop is told in four wordings. Played are the first of them, at guidance 1 and 2, and one that no training saw;
style, tempo and key of what is played are estimated from the audio (partimento.lab.labels) and held against the labels
of the loop. Held-out loss is of loops of other songs.

A finished run is not repeated, an interrupted one goes on. Prints tables and, last, one JSON object; with --docs the
tables are put between the marks of that page.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mot_parts
from follow import ASPECTS, Ask, chance, follows, listened
from intervals import of_mean
from partimento import commit
from partimento.audio.captions import caption
from partimento.audio.synth import labels_of, render_band
from partimento.codecs.codec import decode_whole, open_like
from partimento.codecs.encode import encode
from partimento.config import MotConfig, parse
from partimento.lab.restored.intervals import Interval, difference_over_seeds
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
WAYS = {"guidance 1": (1.0, False), "guidance 2": (2.0, False), "other words": (1.0, True)}
CONTRASTS = [
    ("adapters", "random", "frozen experts: of MusicGen - random"),
    ("experts", "scratch", "trained experts: from MusicGen - from random"),
    ("experts", "adapters", "experts of MusicGen: trained - frozen"),
    ("adapters", "full", "frozen experts of MusicGen - full fine-tuning"),
    ("experts", "full", "trained experts of MusicGen - full fine-tuning"),
    ("mixture", "full", "mixture - full fine-tuning"),
    ("mixture", "experts", "mixture - trained experts of MusicGen"),
]
BOOKS, SECONDS, WORDINGS = 4, 5.0, 4
_BEGIN, _END = "<!-- figures: bench/ablation_mot.py -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Job:
    arm: str
    seed: int
    steps: int
    rate: float
    out: Path

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}-{self.steps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="keeps everything; what is done is not redone")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--loops", type=int, default=36, help="of the band; two thirds or so are learned from")
    parser.add_argument("--lr", type=float, default=2e-3, help="the same for every way")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--docs", type=Path, help="page whose figures are replaced")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds, options.loops = 20, 2, 12
    parts = prepare(options)
    jobs = [
        Job(arm, seed, options.steps, options.lr, options.out) for seed in range(options.seeds) for arm in options.arms
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
    facts = {"steps": options.steps, "seeds": options.seeds, "chance": chance(asks_of(pack)), "parts": parts}
    print(json.dumps({"bench": "ablation_mot", **facts, "arms": summary, "following": effects}))


# Data and models


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Loops with captions, other loops for the MusicGen, and the two models; what those reached."""
    out, many = options.out, 3 * options.loops
    for name, seed, loops in (("pack", 0, options.loops), ("other", 1, many)):
        if not (out / name).exists():
            render_band(out / f"{name}-music", loops, seed, captions=True)
        encode([out / f"{name}-music"], out / name, books=(BOOKS,))
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
    """Short windows at the beginnings of clips first, where words matter; then long ones, in which music goes on."""
    model = dict(ARMS[job.arm])
    if "experts_from" in model:
        model["experts_from"] = str(job.out / model["experts_from"])
    config = parse(
        {
            "family": "mot",
            "data": {
                "pack": str(job.out / "told"),
                "text": "caption",
                "window": 32,
                "begin_share": 0.5,
                "null_share": 0.15,
            },
            "model": {"backbone": str(job.out / "llama"), "text_length": 48, **model},
            "optim": {"lr": job.rate, "warmup": min(60, job.steps // 4), "batch": 64, "ema": 0.99},
            "train": {
                "steps": job.steps,
                "stages": [{"start": 2 * job.steps // 3, "window": 256, "batch": 8}],
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


def words_of(pack: Pack, *, reworded: bool) -> list[Words]:
    """A wording of each loop that was learned from: the first that was told, or one that never was."""
    indices = [int(pack.clips.clip[int(clip)][:5]) for clip in pack.split("train")]
    wording = WORDINGS if reworded else 0
    return [Words(text=caption(labels_of(0, index), wording, index)) for index in indices]


# Runs


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
        "trained": trained,
        "step_seconds": seconds,
        "minutes": (events[-1]["time"] - events[0]["time"]) / 60,
        "loss": lines[-1]["loss"],
        "held_out": {"best": min(held_out), "last": held_out[-1]},
        "songs": [ask.song for ask in asks_of(Pack.open(job.out / "pack"))],
        "hits": played(player, Pack.open(job.out / "pack")),
    }
    commit.record(kept, facts)
    return facts


def played(player: Player, pack: Pack) -> dict[str, list[list[bool]]]:
    """For every way of playing and every training loop: whether tempo, key and style are those of its labels."""
    codec, spec, asks = open_like(pack.spec), pack.spec, asks_of(pack)
    hits = {}
    for way, (guidance, reworded) in WAYS.items():
        items = player.play(
            frames=round(SECONDS * float(spec.frame_rate)),
            seeds=range(len(asks)),
            rules=Rules(),
            words=words_of(pack, reworded=reworded),
            guidance=Guidance(guidance),
        )
        clips = [item.codes_TK.numpy() for item in items]
        found = [listened(decode_whole(codec, one), spec.sample_rate) if len(one) else None for one in clips]
        hits[way] = [list(follows(ask, one).values()) for ask, one in zip(asks, found, strict=True)]
    return hits


# Figures


def by_song(result: dict[str, Any], way: str) -> dict[str, list[float]]:
    """{song: share of the three labels that each of its samples has}."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for song, hits in zip(result["songs"], result["hits"][way], strict=True):
        found[song].append(float(np.mean(hits)))
    return dict(found)


def effect(one: list[dict[str, Any]], two: list[dict[str, Any]], way: str = "guidance 1") -> Interval:
    """one - two, over seeds and songs, of the share of labels that are followed."""
    first, second = ({str(result["seed"]): by_song(result, way) for result in side} for side in (two, one))
    return difference_over_seeds(first, second)


def contrasts(arms: Collection[str]) -> list[tuple[str, str, str]]:
    return [(one, two, title) for one, two, title in CONTRASTS if {one, two} <= set(arms)]


def share(results: list[dict[str, Any]], way: str) -> dict[str, float]:
    """Of the samples of all seeds, by label."""
    hits_NA = np.concatenate([np.array(result["hits"][way], float) for result in results])
    return dict(zip(ASPECTS, hits_NA.mean(0).tolist(), strict=True))


def summary_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    figures = {name: float(np.mean([one[name] for one in results])) for name in ("loss", "step_seconds", "minutes")}
    held_out = {name: float(np.mean([one["held_out"][name] for one in results])) for name in ("best", "last")}
    ways = {way: share(results, way) for way in WAYS}
    return {"trained": results[0]["trained"], **figures, "held_out": held_out, "share": ways}


def report(
    arms: dict[str, list[dict[str, Any]]], parts: dict[str, Any], asks: list[Ask], options: argparse.Namespace
) -> str:
    """The tables as Markdown."""
    by_chance, llama, musicgen = chance(asks), parts["llama"], parts["musicgen"]
    command = shlex.join(["python", "bench/ablation_mot.py", *sys.argv[1:]])
    lines = [
        f"`{command}`",
        "",
        f"The Llama ({llama['parameters'] / 1e6:.2f} M weights) reached {llama['nats']:.2f} nats an id on captions of",
        f"other loops, where the frequencies of the ids give {llama['unigram']:.2f}; the MusicGen",
        f"({musicgen['parameters'] / 1e6:.1f} M) {musicgen['nats']:.2f} nats a code of other songs, where a guess",
        f"costs {np.log(1024):.2f}. {len(asks)} loops of {len({ask.song for ask in asks})} songs were learned from,",
        f"{options.steps} steps each, AdamW at {options.lr:g}, {options.seeds} seeds; {BOOKS} codebooks, samples of",
        f"{SECONDS:g} s at temperature 1.",
        "",
        "| | trained | s a step | training loss | held out, best | tempo | key | style"
        " | other words: tempo | key | style |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        "| chance | | | | | " + 2 * "".join(f"{by_chance[name]:.2f} | " for name in ASPECTS),
    ]
    for arm, results in arms.items():
        loss, spread = of_mean([one["loss"] for one in results])
        best, around = of_mean([one["held_out"]["best"] for one in results])
        cells = [f"{results[0]['trained'] / 1e6:.2f} M", f"{np.mean([one['step_seconds'] for one in results]):.2f}"]
        cells += [f"{loss:.2f} ± {spread:.2f}", f"{best:.3f} ± {around:.3f}"]
        for way in ("guidance 1", "other words"):
            cells += [f"{value:.2f}" for value in share(results, way).values()]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Shares of samples that have the label asked for, at guidance 1; losses in nats a code, ± Student's t over the",
        "seeds. *Other words*: wordings that no training saw, of the same loops.",
        "",
        "| all three labels | guidance 1 | guidance 2 | other words | times chance |",
        "|---|---|---|---|---|",
    ]
    for arm, results in arms.items():
        means = [float(np.mean(list(share(results, way).values()))) for way in WAYS]
        least = min(share(results, "guidance 1")[name] / by_chance[name] for name in ASPECTS)
        lines.append(f"| {arm} | " + " | ".join(f"{mean:.3f}" for mean in means) + f" | {least:.1f} |")
    lines += [
        "",
        "*Times chance* is the least of tempo, key and style at guidance 1. Differences of the share of labels that",
        "are followed, over songs and seeds at once (95 %); an interval without 0 is bold:",
        "",
        "| difference | guidance 1 | other words |",
        "|---|---|---|",
    ]
    for one, two, title in contrasts(arms):
        cells = [told(effect(arms[one], arms[two], way)) for way in ("guidance 1", "other words")]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def told(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:+.3f}"
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"**{text}**" if found.excludes_zero else text


if __name__ == "__main__":
    main()

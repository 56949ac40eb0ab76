"""Tables of bench/ablation_mot.py, as Markdown."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np

from follow import ASPECTS, Ask, chance
from intervals import of_mean
from partimento.lab.restored.intervals import Interval, difference_over_seeds

WAYS = ("guidance 1", "guidance 2", "other words", "dealt anew")
COMPARED = ("guidance 1", "other words", "dealt anew")
CONTRASTS = [
    ("adapters", "random", "frozen experts: of MusicGen - random"),
    ("experts", "scratch", "trained experts: from MusicGen - from random"),
    ("experts", "adapters", "experts of MusicGen: trained - frozen"),
    ("adapters", "full", "frozen experts of MusicGen - full fine-tuning"),
    ("experts", "full", "trained experts of MusicGen - full fine-tuning"),
    ("mixture", "full", "mixture - full fine-tuning"),
    ("mixture", "experts", "mixture - trained experts of MusicGen"),
]


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
        f"{options.steps} steps each, {options.seeds} seeds; {options.books} codebooks, samples of",
        f"{options.seconds:g} s at temperature 1.",
        "",
        "| | trained | rate | training loss | held out, best | tempo | key | style"
        " | other words: tempo | key | style |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        "| chance | | | | | " + 2 * "".join(f"{by_chance[name]:.2f} | " for name in ASPECTS),
    ]
    for arm, results in arms.items():
        loss, spread = of_mean([one["loss"] for one in results])
        best, around = of_mean([one["held_out"]["best"] for one in results])
        cells = [f"{results[0]['trained'] / 1e6:.2f} M", f"{results[0]['rate']:g}"]
        cells += [f"{loss:.2f} ± {spread:.2f}", f"{best:.3f} ± {around:.3f}"]
        for way in ("guidance 1", "other words"):
            cells += [f"{value:.2f}" for value in share(results, way).values()]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Shares of samples that have the label asked for, at guidance 1; losses in nats a code, ± Student's t over the",
        "seeds. *Other words*: wordings that no training saw, of the same loops.",
        "",
        "| all three labels | guidance 1 | guidance 2 | other words | dealt anew | times chance |",
        "|---|---|---|---|---|---|",
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
        "| difference | guidance 1 | other words | dealt anew |",
        "|---|---|---|---|",
    ]
    for one, two, title in contrasts(arms):
        cells = [told(effect(arms[one], arms[two], way)) for way in COMPARED]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def told(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:+.3f}"
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"**{text}**" if found.excludes_zero else text

"""Two cells against each other: the difference on the same clips and seeds, how sure it is, and a sentence.

Differences are second minus first, of the figure by which checkpoints are compared (lower is better).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from partimento.lab.compared import statistics as st
from partimento.lab.compared.cells import Cell
from partimento.lab.compared.figures import NAME, UNIT
from partimento.lab.restored.intervals import Interval, difference_over_seeds, paired_bootstrap
from partimento.runs.judged import Items

TESTED = ("clips and seeds", "seeds")  # what may be decided: judged on the same, with several seeds
Values = dict[str, dict[str, list[float]]]  # seed -> source -> values of its clips


@dataclass(frozen=True)
class Pair:
    """What is known of a difference. `basis`: "clips and seeds", "clips" (one seed), "seeds" (no figures of clips),
    "apart" (nothing is shared but the unit); `why` is the reason for less than the first. `p` belongs to the interval,
    `adjusted` is Holm's. `more_seeds` of each side would decide with a power of 80 %, if the difference is what it
    seems; None where no number would, or it is not known, and `outlook` says which."""

    first: str
    second: str
    figure: str
    unit: str
    basis: str
    why: str | None
    interval: Interval | None
    p: float | None
    signed_ranks: float | None
    effect: st.Effect | None
    effect_of_seeds: st.Effect | None
    lower: tuple[float, float]
    adjusted: float | None = None
    more_seeds: int | None = None
    outlook: str = ""
    verdict: str = ""
    spread: st.Spread | None = None

    @property
    def decided(self) -> bool:
        return self.adjusted is not None and self.adjusted < st.LEVEL

    @property
    def title(self) -> str:
        return f"{self.second} against {self.first}"

    def to_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("spread", "lower")}
        for name in ("interval", "effect", "effect_of_seeds"):
            own[name] = own[name].to_json() if own[name] is not None else None
        own["spread"] = asdict(self.spread) if self.spread is not None else None
        return {**own, "means": list(self.lower), "decided": self.decided}


def chosen(found: Sequence[Cell], by: str | None) -> list[tuple[Cell, Cell]]:
    """Which cells are compared: those that differ in `by` alone; without it, in one setting; if none do, all."""
    every = list(itertools.combinations(found, 2))
    different = [[key for key in one.changes if one.changes[key] != other.changes[key]] for one, other in every]
    if by is not None:
        return [pair for pair, keys in zip(every, different, strict=True) if keys == [by]]
    return [pair for pair, keys in zip(every, different, strict=True) if len(keys) == 1] or every


def pairs(found: Sequence[tuple[Cell, Cell]]) -> list[Pair]:
    """All differences, with Holm's correction over those of them that have a p value of runs (not of clips alone)."""
    made = [_pair(one, two) for one, two in found]
    tested = [number for number, pair in enumerate(made) if pair.p is not None and pair.basis in TESTED]
    adjusted = st.holm([made[number].p or 0.0 for number in tested])
    for number, value in zip(tested, adjusted, strict=True):
        made[number] = replace(made[number], adjusted=value)
    return [_concluded(pair, max(1, len(tested))) for pair in made]


def _pair(one: Cell, two: Cell) -> Pair:
    score = one.first.figures.score
    means = tuple(float(np.mean(cell.figure("score"))) if cell.figure("score") else math.nan for cell in (one, two))
    empty = Pair(one.name, two.name, score, UNIT[score], "apart", None, None, None, None, None, None, means)  # type: ignore[arg-type]
    if any(not math.isfinite(mean) for mean in means):
        return replace(empty, why="a side has no validation")
    if reason := _unlike(one, two):
        return _of_runs(replace(empty, why=reason), one, two, paired=False)
    reason = _unpaired(one, two)
    if reason is not None:
        shared = sorted(set(one.runs) & set(two.runs))
        paired = len(shared) == len(one.runs) == len(two.runs)
        return _of_runs(replace(empty, basis="seeds", why=reason), one, two, paired=paired)
    return _of_clips(empty, one, two)


def _unlike(one: Cell, two: Cell) -> str | None:
    """Why the two were not judged on the same thing."""
    a, b = one.first.identity, two.first.identity
    if a.get("codec_weights") != b.get("codec_weights") or a.get("codec") != b.get("codec"):
        return "their codecs differ: bits per second count what the codes hold, not what is heard"
    if a != b:
        return "their data differ, so they were held against different music"
    return None


def _unpaired(one: Cell, two: Cell) -> str | None:
    """Why clips cannot be paired, or None."""
    runs = [*one.runs.values(), *two.runs.values()]
    for run in runs:
        if run.unpaired:
            return f"{run.run.id}: {run.unpaired}"
    kept = [run.items.items for run in runs if run.items is not None]
    if len({who_was_judged(items) for items in kept}) == 1:
        return None
    names = [set(items.clips) for items in kept]
    if all(name == names[0] for name in names):
        return (
            "not the same codes of the held-out clips were scored (other windows or delays); with a"
            " train.valid_items that is above their number, all are"
        )
    return "they were not judged on the same clips"


def who_was_judged(items: Items) -> str:
    """Who was judged, and on how much of it: equal strings for what can be paired."""
    sizes: dict[tuple[str, str], float] = {}
    for clip, source, size in zip(items.clips, items.sources, items.sizes, strict=True):
        sizes[clip, source] = sizes.get((clip, source), 0.0) + size
    return json.dumps(sorted((clip, source, round(size, 3)) for (clip, source), size in sizes.items()))


def totals(items: Items, name: str) -> dict[tuple[str, str], tuple[float | None, float]]:
    """(clip, source) -> (sum of the figure over its windows, or None; sum of their sizes)."""
    found: dict[tuple[str, str], tuple[float | None, float]] = {}
    for clip, source, size, value in zip(items.clips, items.sources, items.sizes, items.values[name], strict=True):
        sum_, sizes = found.get((clip, source), (0.0, 0.0))
        found[clip, source] = (None if value is None or sum_ is None else sum_ + value), sizes + size
    return found


def by_source(items: Items, name: str) -> dict[str, list[float]]:
    """{source: the figure of each of its clips}, in its unit; clips without a code, or a value, are left out."""
    found: dict[str, list[float]] = {}
    for (_, source), (value, size) in sorted(totals(items, name).items()):
        if size and value is not None:
            found.setdefault(source, []).append(items.scale[name] * value / size)
    return found


def _sources(cell: Cell) -> Values:
    kept = {str(seed): run.items for seed, run in cell.runs.items()}
    return {seed: by_source(one.items, cell.first.figures.score) for seed, one in kept.items() if one is not None}


def _of_clips(pair: Pair, one: Cell, two: Cell) -> Pair:
    first, second = (_sources(cell) for cell in (one, two))
    shared = sorted(set(first) & set(second), key=int)
    if shared and len(shared) < max(len(first), len(second)):  # what only one side has is not paired, and left out
        left = sorted(set(first) ^ set(second), key=int)
        pair = replace(pair, why=f"seeds that only one side has are left out: {', '.join(left)}")
        first, second = ({seed: values[seed] for seed in shared} for values in (first, second))
    paired = bool(shared)
    common = sorted(set.intersection(*(set(run) for side in (first, second) for run in side.values())))
    one_RS, two_RS = (
        np.array([[np.mean(side[seed][source]) for source in common] for seed in sorted(side, key=int)])
        for side in (first, second)
    )
    apart_S = two_RS.mean(0) - one_RS.mean(0)
    ranks, effect = st.signed_ranks(apart_S.tolist()), st.effect_size(apart_S.tolist())
    seeds = min(len(one_RS), len(two_RS))
    if seeds < 2:
        interval = paired_bootstrap({source: [float(value)] for source, value in zip(common, apart_S, strict=True)})
        return replace(pair, basis="clips", interval=interval, p=ranks, signed_ranks=ranks, effect=effect)
    interval = difference_over_seeds(first, second)
    own_R = two_RS.mean(1) - one_RS.mean(1) if paired else None
    variance = float(own_R.var(ddof=1)) if own_R is not None else float(_of_sides(one_RS.mean(1), two_RS.mean(1)))
    of_clips = float(apart_S.var(ddof=1)) / len(common) if len(common) > 1 else 0.0
    spread = st.Spread(variance, of_clips, len(common), paired)
    return replace(
        pair,
        basis="clips and seeds",
        interval=interval,
        p=_p(interval, spread, seeds),
        signed_ranks=ranks,
        effect=effect,
        effect_of_seeds=st.effect_size(own_R.tolist()) if own_R is not None else None,
        spread=spread,
    )


def _of_runs(pair: Pair, one: Cell, two: Cell, *, paired: bool) -> Pair:
    """From the figures of whole runs alone."""
    first, second = (
        {
            seed: run.figures.values["score"]
            for seed, run in cell.runs.items()
            if run.figures.values["score"] is not None
        }
        for cell in (one, two)
    )
    paired = paired and set(first) == set(second)
    a_R, b_R = (np.array([side[seed] for seed in sorted(side)], dtype=np.float64) for side in (first, second))
    mean, seeds = float(b_R.mean() - a_R.mean()), min(len(a_R), len(b_R))
    if seeds < 2:
        return replace(pair, interval=Interval(mean, None, None, 0, seeds))
    own_R = b_R - a_R if paired else None
    variance = float(own_R.var(ddof=1)) if own_R is not None else float(_of_sides(a_R, b_R))
    spread = st.Spread(variance, paired=paired)
    if own_R is not None:
        degrees, error = float(seeds - 1), math.sqrt(variance / seeds)
    else:  # Welch
        parts = [(float(side.var(ddof=1)) / len(side), float(len(side) - 1)) for side in (a_R, b_R)]
        degrees, error = st.satterthwaite(parts), math.sqrt(sum(part for part, _ in parts))
    half = st.half_width(error, degrees)
    interval = Interval(mean, mean - half, mean + half, 0, seeds)
    effect = st.effect_size(own_R.tolist()) if own_R is not None else None
    return replace(
        pair, interval=interval, p=st.p_of_interval(mean, half, degrees), effect_of_seeds=effect, spread=spread
    )


def _of_sides(a_R: np.ndarray[Any, Any], b_R: np.ndarray[Any, Any]) -> float:
    return float(a_R.var(ddof=1) + b_R.var(ddof=1))


def _p(interval: Interval, spread: st.Spread, seeds: int) -> float | None:
    if interval.low is None or interval.high is None:
        return None
    degrees = min(spread.degrees(seeds), 1e6)
    return st.p_of_interval(interval.mean, (interval.high - interval.low) / 2, degrees)


def _concluded(pair: Pair, family: int) -> Pair:
    """With the outlook and the sentence."""
    if pair.interval is None:
        return replace(pair, verdict=f"not compared: {pair.why}", outlook="")
    number, outlook = _outlook(pair, family)
    pair = replace(pair, more_seeds=number, outlook=outlook)
    return replace(pair, verdict=_sentence(pair))


def _outlook(pair: Pair, family: int) -> tuple[int | None, str]:
    assert pair.interval is not None
    if pair.basis == "apart":
        return None, "more runs do not help: what they are judged on differs"
    if pair.decided:
        return 0, ""
    if pair.spread is None:
        return None, "a second seed of each would show how much seeds differ"
    level = st.LEVEL / family  # Holm's first step: what the smallest p value has to pass
    needed = st.seeds_needed(pair.interval.mean, pair.spread, level)
    if needed is not None:
        more = max(1, needed - pair.interval.seeds)
        return more, f"{more} more seed{'s' if more > 1 else ''}"
    if st.clips_forbid(pair.interval.mean, pair.spread, level):
        return None, "more seeds alone cannot decide it: it takes more held-out clips, or sources of them"
    return None, f"not even {st.MOST_SEEDS} seeds would decide so small a difference"


def _sentence(pair: Pair) -> str:
    assert pair.interval is not None
    interval = pair.interval
    better = pair.second if interval.mean < 0 else pair.first
    amount = quantity(abs(interval.mean), pair.unit, pair.figure)
    if interval.low is not None and interval.high is not None:
        half = (interval.high - interval.low) / 2
        amount = quantity(abs(interval.mean), pair.unit, pair.figure, half)
    if pair.basis == "apart":
        return f"{better} needs {amount} less, which says nothing of better: {pair.why}"
    if pair.decided:
        return f"{better} is better by {amount}: decided"
    if pair.basis == "clips":
        return f"{better} is better by {amount} on these clips with one seed: not decided; {pair.outlook}"
    return f"{better} is ahead by {amount}: not decided; {pair.outlook}"


def quantity(mean: float, unit: str, figure: str, half: float | None = None) -> str:
    """12.3 ± 4.5 bits/s, with digits as the interval allows."""
    size = half if half else abs(mean)
    digits = 3 if not size else min(6, max(0, 1 - math.floor(math.log10(size))))
    text = f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half is not None else "")
    return f"{text} {unit}" if unit else f"{text} in {NAME[figure]}"


def differences(one: Cell, two: Cell, names: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Second minus first of whole-run figures, mean and half width: seed by seed where they share their seeds."""
    found: dict[str, tuple[float, float | None]] = {}
    for name in names:
        shared = sorted(set(one.runs) & set(two.runs))
        values = [(one.runs[seed].figures.values.get(name), two.runs[seed].figures.values.get(name)) for seed in shared]
        known = [b - a for a, b in values if a is not None and b is not None]
        if known:
            found[name] = st.mean_and_half(known)
    return found

"""Does a model trained from scratch follow its tags? Forty loops of the band, measured by ear on what it plays.

    python bench/follow.py --out DIR [--minutes 28] [--docs docs/following.md]

Renders 52 labelled loops, of which the split leaves forty to learn from, encodes them, trains the `dia` family on them
(configs/experiments/forty_loops.toml) for at most `--minutes`, and plays: the tags of every loop that it was trained on
at guidance 1 and 3, the same tags dealt anew (the style of one loop, the tempo of another, the key of a third) at both,
and nothing (the null condition). Tempo, key and style of what it played are estimated from the audio
(`partimento.lab.labels`, fitted on other bands) and held against what was asked: tempo within 4 %, key and style
exactly; what ended within 3 s, or is silent, followed nothing.

chance    what a guesser reaches who draws from the labels of the very loops
dealt     what the samples of a row reach, on average, when their asks are dealt among them anew; the null samples have
          only this figure, for nothing was asked of them
ceiling   the loops themselves after encoding and decoding

Stopped at any point, the same command goes on. Prints tables and, last, one JSON object; with --docs, the tables are
put between the marks of that page.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copies import Copies
from intervals import wilson
from partimento import commit, config, keyed
from partimento.audio import files
from partimento.audio.synth import band, render_band
from partimento.codecs.codec import Codec, decode_whole, open_like
from partimento.codecs.encode import encode
from partimento.lab.labels import Estimate, estimate
from partimento.lab.labels.features import Unlabelled
from partimento.runs import checkpoint
from partimento.runs.events import read_events
from partimento.runs.run import Run
from partimento.sampling.guidance import Guidance
from partimento.sampling.rules import Rules
from partimento.tokens.pack import Pack
from partimento.tokens.text import Words
from partimento.training.engine import train
from partimento.training.player import Player

SETTINGS = Path(__file__).parents[1] / "configs" / "experiments" / "forty_loops.toml"
LEAST_MINUTES = 0.5  # a training is not resumed for less
RUN, GUIDED = "forty-loops", 3.0
LOOPS = 52  # the split of these by songs leaves 40 to learn from
WITHIN = 0.04
BATCH = 20  # samples that are played together
ASPECTS = ("tempo", "key", "style")
_BEGIN, _END = "<!-- figures: bench/follow.py -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Ask:
    """What a sample is asked for; `song` is what asks that go together have in common."""

    style: str
    tempo: float
    key: str
    instruments: tuple[str, ...]
    song: str

    @property
    def words(self) -> Words:
        return Words((self.style, f"{self.tempo:g} bpm", self.key, *self.instruments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="keeps everything; what is done is not redone")
    parser.add_argument("--minutes", type=float, default=28.0, help="training, at most")
    parser.add_argument("--loops", type=int, default=LOOPS)
    parser.add_argument("--seeds", type=int, default=2, help="samples of each tag set")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a sample")
    parser.add_argument("--docs", type=Path, help="page whose figures are replaced")
    parser.add_argument("changes", nargs="*", metavar="section.key=value", help="changes of the configuration")
    options = parser.parse_args()
    pack = prepare(options.out, options.loops)
    run, minutes = trained(options.out, pack, options.minutes, options.changes)
    path = checkpoint.newest(run.checkpoints_path)
    assert path is not None
    player, codec = Player.from_checkpoint(path), open_like(pack.spec)
    asks = [_ask(pack, int(clip)) for clip in pack.split("train")]
    table = measured(player, codec, pack, asks, options, folder=options.out / f"played-{path.name}")
    facts = {
        "loops": options.loops,
        "learned_from": len(asks),
        "songs": len({ask.song for ask in asks}),
        "steps": path.name,
        "minutes": round(minutes, 1),
        "parameters": sum(parameter.numel() for parameter in player.module.parameters()),
        "bits_per_second_held_out": _last(run, "valid", "bits_per_second"),
        "seconds": options.seconds,
        "seeds": options.seeds,
    }
    verdict = judge(table, asks)
    text = report(table, asks, facts, verdict)
    print(text)
    if options.docs:
        page = options.docs.read_text(encoding="utf-8")
        before, after = page[: page.index(_BEGIN) + len(_BEGIN)], page[page.index(_END) :]
        commit.text(options.docs, f"{before}\n\n{text}\n\n{after}")
    print(json.dumps({"bench": "follow", **facts, "chance": chance(asks), **verdict, "rows": list(table.values())}))


# Data and training


def prepare(out: Path, loops: int) -> Pack:
    music, pack = out / "band", out / "pack"
    if not (music / "tags.jsonl").exists():
        render_band(music, loops, seed=0)
    encode([music], pack)
    return Pack.open(pack)


def trained(out: Path, pack: Pack, minutes: float, changes: Sequence[str]) -> tuple[Run, float]:
    """The run, and how many minutes it has been trained."""
    place = out / "runs" / RUN
    left = minutes - _minutes(place)
    if left > LEAST_MINUTES or not place.exists():
        fixed = [f"data.pack={pack.path}", f"train.max_minutes={max(left, LEAST_MINUTES):.3f}", "demo.temperatures=[]"]
        train(config.load(SETTINGS, [*fixed, *changes]), runs=out / "runs", run=RUN)
    return Run.open(place), _minutes(place)


def _minutes(run: Path) -> float:
    """From the log: the time between events that follow each other, but for the pauses between processes."""
    if not run.exists():
        return 0.0
    events = read_events(Run.open(run).events_path)
    pairs = itertools.pairwise(events)
    return sum(b["time"] - a["time"] for a, b in pairs if b["kind"] not in ("start", "resume")) / 60


def _last(run: Run, kind: str, name: str) -> float | None:
    found = [event[name] for event in read_events(run.events_path) if event["kind"] == kind and event.get(name)]
    return round(found[-1], 1) if found else None


def _ask(pack: Pack, clip: int) -> Ask:
    style, tempo, key, *instruments = pack.clips.tags[clip]
    return Ask(style, float(tempo.removesuffix(" bpm")), key, tuple(instruments), str(pack.clips.source[clip]))


def dealt(asks: Sequence[Ask]) -> list[Ask]:
    """Tempo and key of each ask taken from others: combinations of known tags that the model was never shown."""
    n = len(asks)
    tempi, keys = ([keyed.permute(i, n, "follow", name) for i in range(n)] for name in ("tempo", "key"))
    return [
        Ask(ask.style, asks[tempo].tempo, asks[key].key, ask.instruments, ask.song)
        for ask, tempo, key in zip(asks, tempi, keys, strict=True)
    ]


# Playing and listening


def measured(
    player: Player, codec: Codec, pack: Pack, asks: list[Ask], options: argparse.Namespace, folder: Path
) -> dict[str, dict[str, Any]]:
    """One row a way of playing; each is kept in `folder` when it is done."""
    asked = asks * options.seeds
    ways = {
        "null condition": (asked, None),
        "guidance 1": (asked, 1.0),
        f"guidance {GUIDED:g}": (asked, GUIDED),
        "dealt anew, guidance 1": (dealt(asks) * options.seeds, 1.0),
        f"dealt anew, guidance {GUIDED:g}": (dealt(asks) * options.seeds, GUIDED),
    }
    table = {"the loops themselves": _ceiling(asks, pack, codec, options.seconds, through_codec=False)}
    table["ceiling: through the codec"] = _ceiling(asks, pack, codec, options.seconds, through_codec=True)
    copies = Copies([pack.read(int(clip)) for clip in pack.split("train")])
    held_out = [pack.read(int(clip)) for clip in pack.split("valid")]
    table["ceiling: through the codec"]["copied"] = copies.figures(held_out, pack.spec)
    for name, (wanted, guidance) in ways.items():
        kept = folder / f"{name.replace(' ', '-').replace(',', '')}-{options.seeds}-{options.seconds:g}.json"
        if not kept.exists():
            found = _play(player, codec, wanted, guidance, options.seconds, kept.with_suffix(""))
            estimates, codes = [one for one, _ in found], [codes_TK for _, codes_TK in found]
            row = _row(name, wanted, estimates, asked=guidance is not None)
            commit.record(kept, {**row, "copied": copies.figures(codes, pack.spec)})
        table[name] = json.loads(kept.read_text())
        print(name, table[name]["share"], table[name]["dealt"], flush=True)
    return table


def _play(
    player: Player, codec: Codec, asks: Sequence[Ask], guidance: float | None, seconds: float, folder: Path
) -> list[tuple[Estimate | None, NDArray[np.int64]]]:
    """What is heard of a sample of each ask, and its codes; the samples themselves go to `folder`."""
    spec, found = player.spec, []
    frames = round(seconds * float(spec.frame_rate))
    began = time.monotonic()
    for first in range(0, len(asks), BATCH):
        group = asks[first : first + BATCH]
        played = player.play(
            frames=frames,
            seeds=range(first, first + len(group)),
            rules=Rules(),
            words=[Words() if guidance is None else ask.words for ask in group],
            guidance=Guidance(guidance or 1.0),
        )
        for number, item in enumerate(played, first):
            codes_TK = item.codes_TK.numpy()
            heard = None
            if len(codes_TK):
                wave_CN = decode_whole(codec, codes_TK)
                files.write(folder / f"{number:03d}.flac", wave_CN, spec.sample_rate)
                heard = listened(wave_CN, spec.sample_rate)
            found.append((heard, codes_TK))
    print(f"{len(asks)} samples of {seconds:g} s in {time.monotonic() - began:.0f} s", flush=True)
    return found


def _ceiling(asks: Sequence[Ask], pack: Pack, codec: Codec, seconds: float, *, through_codec: bool) -> dict[str, Any]:
    """The first seconds of the loops that were learned from."""
    estimates, rate = [], pack.spec.sample_rate
    for clip in pack.split("train"):
        if through_codec:
            wave_CN = decode_whole(codec, pack.read(int(clip)))
        else:
            wave_CN = band(0, int(pack.clips.clip[int(clip)][:5])).wave_CN
        estimates.append(listened(wave_CN[:, : round(seconds * rate)], rate))
    name = "ceiling: through the codec" if through_codec else "the loops themselves"
    return _row(name, asks, estimates, asked=True)


def listened(wave_CN: NDArray[np.float32], rate: int) -> Estimate | None:
    """None for what is too short or silent to have labels."""
    try:
        return estimate(wave_CN, rate)
    except Unlabelled:
        return None


# Figures


def follows(ask: Ask, found: Estimate | None) -> dict[str, bool]:
    if found is None:
        return dict.fromkeys(ASPECTS, False)
    return {
        "tempo": abs(found.tempo / ask.tempo - 1) <= WITHIN,
        "key": found.key == ask.key,
        "style": found.style == ask.style,
    }


def _matches(asks: Sequence[Ask], found: Sequence[Estimate | None]) -> NDArray[np.bool_]:
    """[samples, asks, aspects]: whether a sample is what an ask asks for."""
    return np.array([[list(follows(ask, one).values()) for ask in asks] for one in found])


def chance(asks: Sequence[Ask]) -> dict[str, float]:
    """Of a guesser who draws style, tempo and key from the labels of these asks."""
    guesses = [Estimate(ask.tempo, ask.key, ask.style) for ask in asks]
    return dict(zip(ASPECTS, _matches(asks, guesses).mean((0, 1)).tolist(), strict=True))


def _row(name: str, asks: Sequence[Ask], found: Sequence[Estimate | None], *, asked: bool) -> dict[str, Any]:
    """`dealt` is the mean over all pairings of the samples with the asks, its interval from samples drawn again."""
    matches_NMA = _matches(asks, found)
    hits_NA = matches_NMA[np.arange(len(asks)), np.arange(len(asks))]
    by_sample_NA = matches_NMA.mean(1)
    rng = keyed.numpy_rng("follow", name)
    again = by_sample_NA[rng.integers(len(asks), size=(2000, len(asks)))].mean(1)
    row: dict[str, Any] = {"name": name, "samples": len(asks), "without_labels": sum(one is None for one in found)}
    row["dealt"] = dict(zip(ASPECTS, by_sample_NA.mean(0).tolist(), strict=True))
    row["dealt_interval"] = dict(zip(ASPECTS, np.quantile(again, (0.025, 0.975), axis=0).T.tolist(), strict=True))
    row["share"] = dict(zip(ASPECTS, hits_NA.mean(0).tolist(), strict=True)) if asked else None
    row["hits"] = hits_NA.astype(int).tolist() if asked else None
    row["songs"] = [ask.song for ask in asks]
    return row


def judge(table: dict[str, dict[str, Any]], asks: Sequence[Ask]) -> dict[str, Any]:
    """The three claims, each with the figures that it rests on."""
    by_chance, null = chance(asks), table["null condition"]
    least = {
        name: min(table[row]["share"][name] / by_chance[name] for row in ("guidance 1", f"guidance {GUIDED:g}"))
        for name in ASPECTS
    }
    intervals = null["dealt_interval"]
    raised = {
        kind: _difference(table[f"{kind}guidance 1"], table[f"{kind}guidance {GUIDED:g}"])
        for kind in ("", "dealt anew, ")
    }
    return {
        "times_chance": least,
        "each_3x": min(least.values()) >= 3,
        "null_above_chance": {name: intervals[name][0] > by_chance[name] for name in ASPECTS},
        "raised": raised,
    }


def _difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Mean over the aspects, other - one, with the interval from songs drawn again (samples of a song are alike)."""
    gain_N = np.mean(other["hits"], axis=1) - np.mean(one["hits"], axis=1)
    songs, place_N = np.unique(one["songs"], return_inverse=True)
    sums, counts = np.bincount(place_N, gain_N), np.bincount(place_N)
    drawn = keyed.numpy_rng("follow", "songs").integers(len(songs), size=(4000, len(songs)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return {"mean": float(gain_N.mean()), "low": float(low), "high": float(high)}


def report(
    table: dict[str, dict[str, Any]], asks: Sequence[Ask], facts: dict[str, Any], verdict: dict[str, Any]
) -> str:
    """The tables as Markdown."""
    by_chance = chance(asks)
    lines = [
        f"{facts['learned_from']} of the {facts['loops']} loops ({facts['songs']} songs) were learned from,"
        f" {facts['minutes']} minutes, {facts['steps'].removeprefix('step-').lstrip('0')} steps,"
        f" {facts['parameters'] / 1e6:.1f} million weights; samples of {facts['seconds']:g} s at temperature 1.",
        "",
        "| | samples | tempo within 4 % | key | style |",
        "|---|---|---|---|---|",
        "| chance | | " + " | ".join(f"{by_chance[name]:.3f}" for name in ASPECTS) + " |",
    ]
    for row in table.values():
        cells = []
        for name in ASPECTS:
            if row["share"] is None:
                share, (low, high) = row["dealt"][name], row["dealt_interval"][name]
            else:
                share = row["share"][name]
                low, high = wilson(round(share * row["samples"]), row["samples"])
            cells.append(f"{share:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {row['name']} | {row['samples']} | " + " | ".join(cells) + " |")
    least, raised, null = verdict["times_chance"], verdict["raised"], verdict["null_above_chance"]
    lines += [
        "",
        "The least of guidance 1 and 3 is "
        + ", ".join(f"{least[name]:.1f} times chance in {name}" for name in ASPECTS)
        + ". Null samples, against asks dealt at random, are "
        + ", ".join(f"{'' if above else 'not '}above chance in {name}" for name, above in null.items())
        + ". From guidance 1 to 3 the mean of the three changes by"
        + " and, tags dealt anew, by".join(
            f" {one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" for one in raised.values()
        )
        + " (songs drawn again).",
        "",
        "| copied from the training loops | 8-grams, first book | all books | longest run, first book, s |",
        "|---|---|---|---|",
    ]
    for row in table.values():
        if copied := row.get("copied"):
            name = "loops held out" if row["name"].startswith("ceiling") else row["name"]
            first, whole, longest = copied["first_book"], copied["all_books"], copied["longest_seconds"]
            lines.append(f"| {name} | {first:.3f} | {whole:.3f} | {longest:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

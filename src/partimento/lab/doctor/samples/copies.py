"""Whether the newest demos stand in the training clips: a short form of the audit of `lab.memorised`.

Demos are sound, so they are coded again, which changes codes; the held-out windows beside them are taken as they are.
That makes them more alike to the training clips than the demos could be, so it errs on the side of saying nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partimento.audio import files
from partimento.lab.doctor import pictures
from partimento.lab.doctor.data.seen import neighbours
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.patient import Patient
from partimento.lab.doctor.pictures import Bar
from partimento.lab.doctor.samples.played import Demos, Item
from partimento.lab.memorised import held, pvalues
from partimento.lab.memorised.audited import COPY_SECONDS, LEVEL, NEAR, level_name
from partimento.lab.memorised.ears import Ears
from partimento.lab.memorised.frames import surprise
from partimento.lab.memorised.index import Queries
from partimento.lab.memorised.search import Found, search
from partimento.tokens.pack import Pack

ITEMS, SECONDS = 4, 6.0  # that are heard
FRAMES = 1_000_000  # of the training clips that are searched
SMALLEST = 1e-6  # p-value that is told: the law that it comes from is an extrapolation
BY_FAR = 3.0
"""Times the longest passage of any held-out window, where there are too few of them for a p-value."""


@dataclass(frozen=True)
class Copied:
    """The longest passage of a demo: its seconds, where in the demo and in which clip; `p` over all demos and figures,
    None where there are too few held-out windows."""

    name: str
    seconds: float
    second: float
    clip: str
    clip_second: float
    p: float | None
    far: bool


def examine(patient: Patient, demos: Demos) -> Examined:
    what = "Whether the demos are copies of training clips"
    pack, seen = patient.pack, patient.seen
    if pack is None:
        return Examined(missing=(f"{what}: {patient.pack_missing}.",))
    train = seen.splits[0]
    name = patient.raw.get("data", {}).get("codec")
    if not _at_hand(name or pack.spec.codec):
        why = f"the codec {pack.spec.codec} takes too long to open"
        return Examined(missing=(f"{what}: {why} (partimento memorised RUN).",))
    items = _chosen(demos)
    if not items or not len(train):
        return Examined(missing=(f"{what}: no demo has a file, or the pack has no training clips.",))
    ears = Ears(pack.spec, name)
    codes = [_heard(ears, demos.folder / Path(item["file"]).name) for item in items]
    searched = neighbours(pack, train, FRAMES)
    null = held.hold_out(pack, min(map(len, codes)), None)
    found = search(pack, searched, Queries([*codes, *null.codes], surprise(pack, searched)))
    rows = _judged(pack, found, [Path(item["file"]).name for item in items], null.frames, codes)
    copied = [row for row in rows if row.seconds >= COPY_SECONDS and (row.p is None or row.p <= LEVEL)]
    copied = [row for row in copied if row.p is not None or row.far]
    longest = max(rows, key=lambda row: row.seconds)
    read = f"{len(items)} of {demos.step} in {len(searched):,} of {len(train):,} training clips"
    rest = len(train) - len(searched)
    left = (f"{what}: of {rest:,} training clips (partimento memorised RUN).",) if rest else ()
    if not copied:
        said = f"{read}; the longest common passage is {longest.seconds:.2f} s, as in held-out music"
        return Examined((), (f"The demos are no copies: searched {said}.",), left)
    worst = max(copied, key=lambda row: row.seconds)
    sure = worst.p is not None and worst.p < LEVEL / 5
    long = worst.seconds >= 2.0
    drawn = [Bar(row.name, row.seconds, odd=row in copied) for row in rows]
    chart = pictures.bars("seconds of the longest passage that a training clip has, too", drawn)
    evidence = [Evidence(f"Searched {read}: {len(copied)} hold a passage that held-out music has not.", chart)]
    for row in sorted(copied, key=lambda row: -row.seconds)[:3]:
        by_chance = "" if row.p is None else f" (p {'= ' if row.p >= SMALLEST else '< '}{max(row.p, SMALLEST):.1g})"
        place = f"{row.clip} from {row.clip_second:.1f} s on{by_chance}"
        evidence.append(Evidence(f"{row.name}: {row.seconds:.2f} s from {row.second:.1f} s on are {place}."))
    confidence = 0.9 if sure and long else 0.7 if sure or long else 0.55
    return Examined((Finding("memorised", confidence, tuple(evidence), worst.name),), (), left)


def _at_hand(name: str) -> bool:
    """Whether the codec opens within a second: ours, one that was trained here, or one of the user's own."""
    from partimento.codecs.resident import CARD, RESIDENTS

    return name in RESIDENTS or (Path(name) / CARD).is_file() or (":" in name and not Path(name).exists())


def _chosen(demos: Demos) -> list[Item]:
    """The coldest first, since what is known by heart comes out where nothing is drawn, and one of each temperature
    before a second one of any."""
    ways = demos.ladder
    ranked = [(number, way.temperature, item) for way in ways for number, item in enumerate(way.items)]
    ranked.sort(key=lambda row: row[:2])
    here = [item for _, _, item in ranked if (demos.folder / Path(str(item["file"])).name).is_file()]
    return here[:ITEMS]


def _heard(ears: Ears, path: Path) -> NDArray[np.uint16]:
    audio = files.read(path)
    return ears.hear(audio.wave_CN[:, : round(SECONDS * audio.sample_rate)], audio.sample_rate)


def _judged(
    pack: Pack, found: Found, names: Sequence[str], window: int, codes: Sequence[NDArray[np.uint16]]
) -> list[Copied]:
    """As `memorised.audit` does: each figure among the same of the held-out windows, the least p times their number,
    and over the demos Holm's."""
    values = {
        level_name(books, pack.spec.codebooks): [0 if run is None else run.informative for run in runs]
        for books, runs in found.runs.items()
    }
    values[NEAR] = [0 if one is None else one.aligned.score for one in found.near]
    count, seconds = len(names), pack.spec.seconds
    nulls = {name: of[count:] for name, of in values.items()}
    fits = {name: pvalues.fit(of) for name, of in nulls.items()}
    enough = len(nulls[NEAR]) >= pvalues.FEWEST
    p_Q = []
    for number in range(count):
        times = max(1.0, len(codes[number]) / max(1, window))
        ranked = [pvalues.pvalue(of[number], nulls[name], fits[name], times).p for name, of in values.items()]
        p_Q.append(min(1.0, len(ranked) * min(ranked)))
    holm = pvalues.holm(p_Q) if enough else [None] * count
    rows = []
    for number, name in enumerate(names):
        places = [
            (one.frames, one.sample_first, one.clip, one.clip_first)
            for runs in found.runs.values()
            if (one := runs[number]) is not None and one.informative > 1
        ]
        if (near := found.near[number]) is not None:
            at = near.aligned
            places.append((at.sample_last - at.sample_first, at.sample_first, near.clip, at.clip_first))
        frames, first, clip, clip_first = max(places, default=(0, 0, 0, 0))
        far = values[NEAR][number] >= BY_FAR * max([1, *nulls[NEAR]]) and bool(nulls[NEAR])
        rows.append(
            Copied(
                name,
                seconds(frames),
                seconds(first),
                str(pack.clips.clip[clip]),
                seconds(clip_first),
                holm[number],
                far,
            )
        )
    return rows

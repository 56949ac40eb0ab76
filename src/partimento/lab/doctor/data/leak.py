"""Held-out clips that training has, too: common sources and files, and near-copies under other names.

Near-copies are what `lab.memorised` finds: windows of held-out clips are searched in the training clips. Music that
repeats itself (loops, one rhythm throughout) is alike everywhere, so training clips are searched in training clips of
other sources in the same way, and only what stands out from that is called a leak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from partimento import keyed
from partimento.lab.doctor import pictures
from partimento.lab.doctor.data.seen import Clips, Seen, neighbours
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.pictures import Bar
from partimento.lab.memorised import held
from partimento.lab.memorised.frames import surprise
from partimento.lab.memorised.index import Queries
from partimento.lab.memorised.search import search
from partimento.tokens import counting
from partimento.tokens.clips import Column
from partimento.tokens.pack import Pack

WINDOW_SECONDS = 5.0
WINDOWS = 48  # of each kind that are searched
FRAMES = 1_000_000  # of the training clips that they are searched in
SAME = held.LEAK_SHARE
LEAST = 0.03  # of the held-out windows, under which it is a remark
FEW = 8  # windows of training clips, under which they say nothing of how alike the music is
CELLS = 20_000_000  # clips, under which the columns of the table are compared


@dataclass(frozen=True)
class Alike:
    """Of each window: its clip, the training clip that is most like it (-1: none), and the share of equal frames."""

    windows: list[int]
    clips: list[int]
    share: NDArray[np.float64]


def examine(seen: Seen, pack: Pack) -> Examined:
    what = "Whether held-out clips are copies of training clips"
    train, valid = seen.splits
    if not len(train) or not len(valid):
        return Examined(missing=(f"{what}: a split has no clips.",))
    named = [_common(pack, name) for name in ("source", "sha256")] if len(pack.clips) < CELLS else []
    both = [one for one in named if one is not None]
    if both:
        return Examined((Finding("leaking_split", 0.95, tuple(Evidence(text, chart) for text, chart in both)),))
    searched = neighbours(pack, train, FRAMES)
    length = max(1, round(WINDOW_SECONDS * float(pack.spec.frame_rate)))
    found = _alike(pack, seen.read.valid, searched, length)
    if not found.windows:
        return Examined(missing=(f"{what}: the held-out clips hold no frame.",))
    whole = len(searched) == len(train)
    read = "all" if whole else f"{len(searched):,} of {len(train):,}"
    said = f"{len(found.windows)} held-out windows were searched in {read} training clips"
    left = () if whole else (f"{what}: of {len(train) - len(searched):,} training clips (partimento pack stats).",)
    if found.share.max(initial=0.0) < SAME:
        most = f"the most alike shares {100 * found.share.max(initial=0.0):.0f} % of its frames with one"
        return Examined((), (f"No source, file or passage is on both sides of the split: {said}; {most}.",), left)
    usual = _usual(pack, searched, length)
    if usual is None:
        alike = f"{int((found.share >= SAME).sum())} of them are alike, and there are too few training clips"
        return Examined(missing=(f"{what}: {said}; {alike} to tell whether all are.",))
    limit = max(SAME, usual + (1 - usual) / 2)
    leaks = np.flatnonzero(found.share >= limit)
    alike = f"training clips of different sources share {100 * usual:.0f} % of their frames in the middle"
    if not len(leaks):
        return Examined((), (f"No held-out clip stands out as a copy: {said}; {alike}.",), left)
    return Examined((_leaking(pack, found, leaks, said, alike),), (), left)


def _leaking(pack: Pack, found: Alike, leaks: NDArray[np.int64], said: str, alike: str) -> Finding:
    clips = pack.clips.clip
    ranked = leaks[np.argsort(-found.share[leaks], kind="stable")].tolist()
    names = [
        f"{clips[found.windows[row]]} and {clips[found.clips[row]]} ({100 * found.share[row]:.0f} % of the frames)"
        for row in ranked[:3]
    ]
    what = "frames in common with the likest training clip, %"
    chart = pictures.shares("leak", "held-out windows", found.share.tolist(), x_label=what)
    evidence = (
        Evidence(f"{said}; {len(leaks)} of them are near-copies: {'; '.join(names)}.", chart),
        Evidence(f"That is not how alike the music is: {alike}."),
    )
    part = len(leaks) / len(found.windows)
    confidence = 0.45 if part < LEAST else min(0.95, 0.7 + part)
    return Finding("leaking_split", round(confidence, 2), evidence, str(clips[found.windows[ranked[0]]]))


def _common(pack: Pack, column: str) -> tuple[str, str | None] | None:
    """What the table has on both sides of the split."""
    values: Column = getattr(pack.clips, column)
    sides = pack.clips.split_codes
    flat = values.arrow.combine_chunks() if values.arrow.num_chunks != 1 else values.arrow.chunk(0)
    ours, theirs = (pc.unique(flat.filter(pa.array(sides == side))).drop_null().cast(pa.string()) for side in (0, 1))
    both = theirs.filter(pc.is_in(theirs, value_set=ours)).to_pylist()
    both = [one for one in both if one]
    if not both:
        return None
    rows = [("training alone", len(ours)), ("held out alone", len(theirs))]
    counted = [Bar(side, count - len(both)) for side, count in rows]
    chart = pictures.bars(f"{column}s, by side of the split", [*counted, Bar("both", len(both), odd=True)])
    called = {"source": "source", "sha256": "file (equal sha256)"}[column]
    shown = ", ".join(str(one) for one in both[:3])
    return f"{len(both)} times the same {called} is in train and valid: {shown}.", chart


def _alike(pack: Pack, of: Clips, among: Clips, wanted: int) -> Alike:
    """One window of each of some clips, and its best near-copy among others."""
    lengths = np.asarray(pack.clips.frames[of], dtype=np.int64)
    of, lengths = of[lengths > 0], lengths[lengths > 0]
    frames = held.window_length(lengths, wanted)
    of, lengths = of[lengths >= frames], lengths[lengths >= frames]
    if not len(of) or not len(among):
        return Alike([], [], np.zeros(0))
    order = keyed.permute_many(np.arange(min(WINDOWS, len(of))), len(of), "doctor leak")
    windows = [int(of[place]) for place in order]
    firsts = [keyed.below(int(lengths[place]) - frames + 1, "doctor window", int(of[place])) for place in order]
    codes = [np.array(pack.read(clip, at, at + frames)) for clip, at in zip(windows, firsts, strict=True)]
    found = search(pack, among, Queries(codes, surprise(pack, among))).near
    share = [0.0 if one is None else one.aligned.matches / frames for one in found]
    return Alike(windows, [-1 if one is None else one.clip for one in found], np.asarray(share))


def _usual(pack: Pack, train: Clips, wanted: int) -> float | None:
    """The median share of frames that windows of training clips have in common with a clip of other sources; None
    where there are too few to tell."""
    one, other = (np.unique([span[0] for span in spans]).astype(np.int64) for spans in counting.halves(pack, train))
    if np.intersect1d(one, other).size:
        return None  # a single source, cut clip by clip
    found = _alike(pack, one, other, wanted)
    return float(np.median(found.share)) if len(found.windows) >= FEW else None

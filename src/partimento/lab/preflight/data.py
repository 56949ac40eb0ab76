"""Checks of the data: whole, split without a leak, of the run that is resumed, drawn as it should be."""

from __future__ import annotations

import numpy as np

from partimento.codecs.codec import open_like
from partimento.config import SoundConfig
from partimento.errors import PartimentoError
from partimento.keyed import permute_many
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.check import Check, failed, passed, skipped, some, warned
from partimento.lab.preflight.sound import crops_heard, recordings_apart
from partimento.tokens.clipwise import Runs
from partimento.tokens.clipwise import read as read_clips
from partimento.tokens.draw import Draw
from partimento.tokens.duplicates import Fingerprints, find
from partimento.tokens.pack import SPLITS, Pack
from partimento.tokens.text import Words
from partimento.training.state import check_config, check_identity

READ_FRAMES = 1_000_000  # of which copies and silence are looked for: some three hours, a second or two
PLACES = 4096  # windows whose padding is counted
STILL_SHARE = 0.2
PADDING_SHARE = 0.5


def pack_whole(bench: Bench) -> Check:
    """The pack is whole: its table, its edits, and the size and header of every shard."""
    if isinstance(bench.config, SoundConfig):
        return skipped("pack", "this family reads recordings")
    pack = Pack.open(bench.config.data.pack, verify="quick")
    clips, hours = len(pack.clips), pack.spec.seconds(int(pack.clips.frames.sum())) / 3600
    return passed("pack", f"{len(pack.shards)} shards, {clips:,} clips, {hours:,.1f} h of {pack.spec.codec}")


def splits_apart(bench: Bench) -> Check:
    """No source, no file and (in a pack of a few hours) no passage stands on both sides of the split."""
    task = bench.codes
    if task is None:
        return recordings_apart(bench)
    pack = task.pack
    sides = pack.clips.split_codes
    for what, column in (("source", pack.clips.source), ("file (equal sha256)", pack.clips.sha256)):
        sets = [{column[int(clip)] for clip in np.flatnonzero(sides == side)} - {None} for side in range(len(SPLITS))]
        if both := sorted(sets[0] & sets[1]):
            found = f"{len(both)} times the same {what} in train and valid: {some([str(name) for name in both])}"
            return failed("splits", found, "import or encode again: splits are made by hashed source")
    counts = f"{int((sides == 0).sum()):,} clips to train on, {int((sides == 1).sum()):,} held out"
    if int(pack.clips.frames.sum()) > READ_FRAMES:
        return passed("splits", f"{counts}; no common source or file (partimento pack stats looks for copies)")
    clips = np.arange(len(pack.clips), dtype=np.int64)
    clips = clips[pack.ensure(clips)]
    prints = Fingerprints()
    read_clips(pack, clips, [prints])
    pairs = [pair for pair in find(pack, clips, prints).pairs if sides[pair.first] != sides[pair.second]]
    if pairs:
        names = [f"{pack.clips.clip[pair.first]} and {pack.clips.clip[pair.second]}" for pair in pairs]
        remedy = "give the copies one source (tags.jsonl) and encode again; partimento pack stats lists them"
        held_out = {pair.first if sides[pair.first] else pair.second for pair in pairs}
        return warned("splits", f"{len(held_out)} held-out clips share passages with training: {some(names)}", remedy)
    return passed("splits", f"{counts}; no common source, file or passage")


def data_fits(bench: Bench) -> Check:
    """The data opens, both splits are there, and every window is as long as was asked and fits the longest clip."""
    task = bench.task
    identity = ", ".join(f"{name} {str(value)[:12]}" for name, value in task.identity.items())
    codes = bench.codes
    if codes is None:
        return passed("data", f"opened and drawn from; {identity}")
    for stage, draw in zip(codes.stages, codes.draws, strict=True):
        rows = draw.batch([0]).grid_BSK.shape[1] - 1
        if rows != stage.window:
            found = f"a window of {stage.window} steps was asked for, and the model is given {rows}"
            return failed("data", found, "lengths are never rounded: undo the change")
    padding, steps = max((_padding(draw), draw.window) for draw in codes.draws)
    if padding > PADDING_SHARE:
        found = f"{100 * padding:.0f} % of the rows of {steps}-step windows are padding"
        return warned("data", found, "a shorter data.window: most clips are shorter than this one")
    shortest, delay = min(draw.window for draw in codes.draws), codes.pattern.max_delay
    if shortest <= delay:
        found = f"the last book is delayed by {delay} steps, and a window has {shortest}"
        return warned("data", found, f"data.window={4 * delay}, or another model.pattern")
    seconds = codes.pack.spec.seconds(steps // codes.pattern.stride)
    told = f"{codes.train.slots:,} windows an epoch, the longest of {steps} steps ({seconds:.2f} s)"
    return passed("data", f"{told}, {100 * padding:.0f} % padding; {identity}")


def _padding(draw: Draw) -> float:
    """Share of the rows of its first windows."""
    clip_B, _ = draw.places(np.arange(min(PLACES, draw.slots)))
    rows_B = draw.pattern.steps_many(draw.pack.clips.frames[clip_B], draw.ends)
    return float(np.maximum(0, draw.window + 1 - rows_B).mean() / (draw.window + 1))


def same_run(bench: Bench) -> Check:
    """The run that is resumed was started with this data and this configuration."""
    if bench.run is None:
        return skipped("resume", "a new run (give --run to check one that exists)")
    check_config(bench.run.record["config"], bench.config)
    check_identity(bench.run.record.get("identity", {}), bench.task.identity, bench.task.history)
    return passed("resume", f"{bench.run.id} was started with the same data and configuration")


def demos_open(bench: Bench) -> Check:
    """The codec that plays the demos opens, and the model can be told their prompts."""
    demo, task = bench.config.demo, bench.codes
    if task is None or isinstance(bench.config, SoundConfig):
        return skipped("demos", "this family makes sound itself")
    if not demo.temperatures:
        return skipped("demos", "switched off (demo.temperatures = [])")
    try:
        codec = open_like(task.pack.spec, name=bench.config.data.codec)
    except PartimentoError as err:
        why = f" ({err.why})" if err.why else ""
        remedy = "name it: data.codec=FOLDER; or train without demos: demo.temperatures=[]"
        return failed("demos", f"{err.message}{why}", remedy, err.code)
    prompts = [str(task.coder.require(Words.parse(prompt))) or "no words" for prompt in demo.prompts]
    return passed("demos", f"{codec.spec.codec} opens; played with {some(prompts)}")


def silence_share(bench: Bench) -> Check:
    """Most of what is learned is not silence (frames that stand still)."""
    task = bench.codes
    if task is None:
        return crops_heard(bench)
    pack, clips = task.pack, np.asarray(task.train.clips, dtype=np.int64)
    clips = clips[permute_many(np.arange(len(clips)), len(clips), "preflight")]
    clips = clips[: max(1, int(np.searchsorted(np.cumsum(pack.clips.frames[clips]), READ_FRAMES)))]
    clips = np.sort(clips[pack.ensure(clips)])
    runs = Runs(len(clips), float(pack.spec.frame_rate))
    read_clips(pack, clips, [runs])
    share = float(runs.still_C.sum() / max(1, int(pack.clips.frames[clips].sum())))
    found = f"{100 * share:.0f} % of the frames of {len(clips):,} clips stand still"
    if share > STILL_SHARE:
        return warned("silence", found, "cut long silences before encoding; partimento pack stats names the clips")
    return passed("silence", found)

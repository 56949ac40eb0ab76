"""The null: held-out clips of the same pack, cut to the samples' length and treated as the samples are.

Music that the model never saw agrees with the training clips too: by chance, by silence, by what all music shares. How
far it does is what a sample is held against. One window a clip, since windows of one clip are alike. Samples that are
audio went through the codec once more, which changes codes; their held-out windows go the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from partimento import keyed
from partimento.lab.memorised.search import Near
from partimento.tokens.pack import SPLITS, Pack

FEW = 20  # held-out clips, under which the null is called thin
MOST = 200
LEAK_SHARE = 0.25
"""Of a window's frames in a near-copy, from which on the clip is called a near-duplicate of a training clip (the share
at which `tokens.duplicates` does)."""

Again = Callable[[NDArray[np.uint16]], NDArray[np.uint16]]
"""Codes [T, K] -> those of their sound."""


@dataclass(frozen=True)
class Held:
    """`codes` [frames, K] of one window a clip. `kept_K` is the share of codes that survive the way through audio, by
    book (None where the samples did not go it)."""

    clips: list[int]
    names: list[str]
    firsts: list[int]
    frames: int
    codes: list[NDArray[np.uint16]]
    kept_K: list[float] | None
    shared_sources: list[str]


def window_length(lengths: NDArray[np.integer], wanted: int) -> int:
    """As long as the samples, or as the FEW longest clips allow; of less than 2 FEW clips, the longer half of them."""
    ordered = np.sort(lengths)[::-1]
    return int(min(wanted, ordered[min(FEW, (len(ordered) + 1) // 2) - 1])) if len(ordered) else 0


def hold_out(pack: Pack, wanted: int, again: Again | None) -> Held:
    """Up to MOST windows of held-out clips in keyed order, `wanted` frames long or less (see `window_length`)."""
    valid = np.flatnonzero(pack.clips.split_codes == SPLITS.index("valid"))
    lengths = np.asarray(pack.clips.frames[valid], dtype=np.int64)
    valid, lengths = valid[lengths > 0], lengths[lengths > 0]
    frames = window_length(lengths, wanted)
    valid, lengths = valid[lengths >= frames], lengths[lengths >= frames]
    order = keyed.permute_many(np.arange(min(MOST, len(valid))), len(valid), "memorised held out")
    clips = [int(valid[place]) for place in order]
    firsts = [keyed.below(int(lengths[place]) - frames + 1, "memorised window", int(valid[place])) for place in order]
    # Copies: a view of a shard would keep all of it mapped.
    codes = [np.array(pack.read(clip, at, at + frames)) for clip, at in zip(clips, firsts, strict=True)]
    kept_K = None
    if again is not None and codes:
        plain, codes = codes, [again(codes_TK)[:frames] for codes_TK in codes]
        equal = [(a == b).mean(axis=0) for a, b in zip(plain, codes, strict=True)]
        kept_K = [float(value) for value in np.mean(equal, axis=0)]
    names = [pack.clips.clip[clip] for clip in clips]
    return Held(clips, names, firsts, frames, codes, kept_K, _shared_sources(pack, clips))


def _shared_sources(pack: Pack, clips: list[int]) -> list[str]:
    """Sources of these clips that training clips have too."""
    ours = sorted({pack.clips.source[clip] for clip in clips})
    train = pa.array(pack.clips.split_codes == SPLITS.index("train"))
    column, at, found = pack.clips.source.arrow, 0, set()
    for chunk in column.chunks:
        named = pc.is_in(chunk, value_set=pa.array(ours, type=pa.string()))
        both = pc.and_(named, train.slice(at, len(chunk)))
        found.update(chunk.filter(both).to_pylist())
        at += len(chunk)
    return sorted(found)


def leaks(near: list[Near | None], frames: int) -> list[int]:
    """Numbers of the windows that are near-duplicates of training clips."""
    return [number for number, one in enumerate(near) if one is not None and one.aligned.matches >= LEAK_SHARE * frames]

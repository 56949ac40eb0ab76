"""What the examiners of the data share: the clips that are read, what one pass over them gives, and the run's draw."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.config import CodesConfig, DiaConfig, DiaData, MotConfig, RvqConfig
from partimento.errors import PartimentoError
from partimento.lab.doctor.patient import Patient
from partimento.tokens import clipwise
from partimento.tokens.clipwise import Runs, UnigramCounts
from partimento.tokens.draw import Draw
from partimento.tokens.noise import ClipNoise
from partimento.tokens.pack import SPLITS, Pack
from partimento.tokens.patterns import Pattern
from partimento.tokens.select import Selection
from partimento.tokens.spec import Specials

TRAIN_FRAMES, VALID_FRAMES = 300_000, 100_000
"""Frames that are read at most (one clip more): at 86 frames a second about an hour, and twenty minutes."""
MOST_CLIPS = 20_000
RUNS = 4  # of neighbouring clips

Clips = NDArray[np.int64]


@dataclass(frozen=True)
class Read:
    """One pass over `train` and `valid` (numbers of clips, each ascending; rows of `runs` and `noisy` are of `clips`,
    the one after the other). `count_SKV` counts codes by split and book."""

    train: Clips
    valid: Clips
    runs: Runs
    noisy: ClipNoise
    count_SKV: list[list[NDArray[np.int64]]]
    frames_C: NDArray[np.int64]

    @property
    def clips(self) -> Clips:
        return np.concatenate([self.train, self.valid])


class Seen:
    """Of a patient. `why` says why there is no pack."""

    def __init__(self, patient: Patient) -> None:
        self.patient, self.pack = patient, patient.pack
        self.why = patient.pack_missing

    @property
    def codes_config(self) -> CodesConfig | None:
        config = self.patient.config
        return config if isinstance(config, RvqConfig | DiaConfig | MotConfig) else None

    @functools.cached_property
    def splits(self) -> tuple[Clips, Clips]:
        """All clips of the training and of the held-out split that this run chose; a split may be empty."""
        assert self.pack is not None
        selection = _selection(self.codes_config)
        sides = self.pack.clips.split_codes
        chosen = np.arange(len(sides)) if selection is None else selection.choose(self.pack).clips
        train, valid = (chosen[sides[chosen] == SPLITS.index(name)].astype(np.int64) for name in ("train", "valid"))
        return train, valid

    @functools.cached_property
    def read(self) -> Read:
        """Raises what reading a damaged pack does."""
        assert self.pack is not None
        train, valid = (
            some(self.pack, clips, most) for clips, most in zip(self.splits, (TRAIN_FRAMES, VALID_FRAMES), strict=True)
        )
        clips = np.concatenate([train, valid])
        spec = self.pack.spec
        runs, noisy = Runs(len(clips), float(spec.frame_rate)), ClipNoise(len(clips), spec.cardinalities)
        split_C = np.repeat([0, 1], [len(train), len(valid)])
        counts = UnigramCounts(spec.cardinalities, split_C, 2)
        clipwise.read(self.pack, clips, [runs, noisy, counts])
        frames_C = np.asarray(self.pack.clips.frames[clips], dtype=np.int64)
        return Read(train, valid, runs, noisy, counts.n_SKV, frames_C)

    @property
    def how_much(self) -> str:
        """What was read, for a sentence."""
        assert self.pack is not None
        read, (train, valid) = self.read, self.splits
        minutes = self.pack.spec.seconds(int(read.frames_C.sum())) / 60
        every = len(read.train) == len(train) and len(read.valid) == len(valid)
        which = "all" if every else f"{len(read.clips):,} of {len(train) + len(valid):,}"
        return f"{which} clips ({minutes:,.1f} minutes)"

    @functools.cached_property
    def draw(self) -> Draw | None:
        """The draw of the run's first stage; None for another family, without a pack, or where no pattern is known.

        Raises PACK007, PACK008 (nothing can be drawn), TAGS003, TAGS008.
        """
        config, pack = self.codes_config, self.pack
        if config is None or pack is None:
            return None
        shape = self._shape(pack, config)
        if shape is None:
            return None
        data = config.data
        return Draw(
            pack,
            *shape,
            split="train",
            window=data.window,
            seed=config.train.seed,
            begin_share=data.begin_share,
            null_share=data.null_share,
            tag_dropout=data.tag_dropout,
            tag_shuffle=data.tag_shuffle,
            tag_limit=data.tag_limit,
            selection=_selection(config),
            words=data.text if isinstance(data, DiaData) else None,
            caption_dropout=data.caption_dropout if isinstance(data, DiaData) else 0.0,
        )

    def _shape(self, pack: Pack, config: CodesConfig) -> tuple[Pattern, Specials] | None:
        """As a checkpoint describes them, or as a model from scratch has them."""
        newest = self.patient.newest
        told = ((newest.state or {}).get("description") or {}) if newest is not None else {}
        if "pattern" in told and "specials" in told:
            pattern, specials = told["pattern"], told["specials"]
            return Pattern(tuple(pattern["delays"]), pattern["stride"]), Specials(**specials)
        if not isinstance(config, RvqConfig):
            return None
        spec = pack.spec
        try:
            pattern = Pattern.named(config.model.pattern, spec.codebooks, spec.books)
        except PartimentoError:
            return None  # a list of delays for another number of books
        return pattern, Specials.after(spec.cardinality)


def _selection(config: CodesConfig | None) -> Selection | None:
    """The clips that the run chose; its task is asked only where it chose any, since to import it takes seconds."""
    if config is None or not (config.data.with_tags or config.data.without_tags or config.data.licence is not None):
        return None
    from partimento.training.tasks.codes import selection_of

    return selection_of(config)


def some(pack: Pack, clips: Clips, frames: int) -> Clips:
    """Clips in keyed order up to so many frames (one clip at least), ascending."""
    if not len(clips):
        return clips
    order = keyed.permute_many(np.arange(min(len(clips), MOST_CLIPS)), len(clips), "doctor")
    ends = np.cumsum(np.asarray(pack.clips.frames[clips[order]], dtype=np.int64))
    return np.sort(clips[order[: max(1, int(np.searchsorted(ends, frames, side="right")))]])


def neighbours(pack: Pack, clips: Clips, frames: int) -> Clips:
    """About so many frames in a few runs of neighbouring clips: what is searched is read block by block, and clips that
    are strewn over a pack would have all of it read."""
    ends = np.cumsum(np.asarray(pack.clips.frames[clips], dtype=np.int64))
    if not len(clips) or ends[-1] <= frames:
        return clips
    run_C = (ends - 1) // max(1, frames // RUNS)
    count = int(run_C[-1]) + 1
    chosen = keyed.permute_many(np.arange(min(RUNS, count)), count, "doctor runs")
    return clips[np.isin(run_C, chosen)]

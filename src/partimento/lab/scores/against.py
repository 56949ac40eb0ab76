"""A set of files against a reference, a folder of recordings or a pack: their pieces in each named embedding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.audio import files
from partimento.errors import PartimentoError
from partimento.lab.scores.codes import PackCodes, PooledKL
from partimento.lab.scores.embeddings import MOST_PIECES, PIECE_SECONDS, Embedding, embed, pieces
from partimento.lab.scores.sets import FEW_ITEMS, FEWEST, Distances, Points, distances
from partimento.progress import Progress

MOST_ITEMS = 400  # of a reference
_SHORTEST_PIECE = 0.5  # seconds


@dataclass(frozen=True)
class Sound:
    """`item` is what it is a part of: a file by itself, all clips of one source together."""

    item: str
    wave_CN: NDArray[np.float32]
    sample_rate: int


class Reference(Protocol):
    what: str

    def __len__(self) -> int: ...

    def sounds(self, seconds: float) -> Iterator[Sound | PartimentoError]: ...


class Folder:
    """Recordings below a folder; at most MOST_ITEMS of them, by key."""

    def __init__(self, path: Path) -> None:
        found = files.discover(path)
        self._files = [found[keyed.permute(i, len(found), "reference")] for i in range(min(len(found), MOST_ITEMS))]
        self.what = f"{len(self._files)} of {len(found)} files of {path}"

    def __len__(self) -> int:
        return len(self._files)

    def sounds(self, seconds: float) -> Iterator[Sound | PartimentoError]:
        return read_all(self._files)


class PackReference:
    """Clips of a pack, decoded: held-out ones where there are FEW_ITEMS of them, else of both sides of the split."""

    def __init__(self, codes: PackCodes) -> None:
        self._codes = codes
        pack = codes.pack
        chosen, side = codes.held_out, "held-out"
        if len(chosen) < FEW_ITEMS:
            chosen, side = np.arange(len(pack.clips)), "trained-on and held-out"
        count = min(len(chosen), MOST_ITEMS)
        self._clips = [int(chosen[keyed.permute(i, len(chosen), "reference")]) for i in range(count)]
        self.what = f"{count} of {len(chosen)} {side} clips of {pack.name}, decoded"

    def __len__(self) -> int:
        return len(self._clips)

    def sounds(self, seconds: float) -> Iterator[Sound | PartimentoError]:
        from partimento.codecs.codec import decode_whole

        pack = self._codes.pack
        most = round(MOST_PIECES * seconds * float(pack.spec.frame_rate))
        for clip in self._clips:
            frames = int(pack.clips.frames[clip])
            first = max(0, frames - most) // 2
            codes_TK = pack.read(clip, first, min(frames, first + most))
            yield Sound(str(pack.clips.source[clip]), decode_whole(self._codes.codec, codes_TK), pack.spec.sample_rate)


def read_all(paths: Iterable[Path]) -> Iterator[Sound | PartimentoError]:
    for path in paths:
        try:
            audio = files.read_isolated(path)
        except PartimentoError as err:
            yield err
        else:
            yield Sound(str(path), audio.wave_CN, audio.sample_rate)


@dataclass
class Cut:
    """Pieces of many sounds in one embedding. `means` are those of each sound, by its item, for what is said of sounds;
    `left_out` counts sounds by the reason."""

    points: list[NDArray[np.float64]] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    means: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    failures: dict[str, PartimentoError] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, sound: Sound, embedding: Embedding, seconds: float) -> None:
        waves_PN = pieces(sound.wave_CN, sound.sample_rate, int(embedding.sample_rate), seconds)
        if not len(waves_PN):
            self.left_out["shorter than a piece"] += 1
            return
        if not np.isfinite(waves_PN).all():
            self.left_out["samples that are not finite"] += 1
            return
        try:
            found_PD = embed(embedding, waves_PN)
        except PartimentoError as err:
            self.left_out[f"the embedding failed ({err.code})"] += 1
            self.failures[sound.item] = err
            return
        self.points.append(found_PD)
        self.items.append(sound.item)
        self.means[sound.item] = found_PD.mean(0)

    @property
    def whole(self) -> Points | None:
        """None where there is nothing."""
        if not self.points:
            return None
        number = {item: i for i, item in enumerate(dict.fromkeys(self.items))}
        items = np.repeat([number[item] for item in self.items], [len(part) for part in self.points])
        return Points(np.concatenate(self.points), items.astype(np.int64))


def cut_all(
    sounds: Iterable[Sound | PartimentoError],
    embeddings: Sequence[Embedding],
    lengths: Sequence[float],
    count: int,
    progress: Progress,
) -> list[Cut]:
    """One Cut an embedding; each sound is read once."""
    cuts = [Cut() for _ in embeddings]
    for number, sound in enumerate(sounds, 1):
        for cut, embedding, seconds in zip(cuts, embeddings, lengths, strict=True):
            if isinstance(sound, PartimentoError):
                cut.left_out[f"unreadable ({sound.code})"] += 1
            else:
                cut.add(sound, embedding, seconds)
        progress.update(number, count)
    return cuts


def piece_seconds(embedding: Embedding, lengths: Sequence[float]) -> float:
    """The length of a piece: what the embedding is made for, but never more than half of the set's files have."""
    wanted = float(getattr(embedding, "seconds", PIECE_SECONDS))
    return max(_SHORTEST_PIECE, min(wanted, float(np.median(lengths)) if lengths else wanted))


@dataclass(frozen=True)
class Embedded:
    """The distances in one embedding, what they are measured in and of; None where a side has fewer than two items."""

    embedding: str
    dimension: int | None
    sample_rate: int
    sha256: str | None
    piece_seconds: float
    items: int
    pieces: int
    reference_items: int
    reference_pieces: int
    left_out: dict[str, int]
    reference_left_out: dict[str, int]
    distances: Distances | None
    remarks: list[str]


@dataclass(frozen=True)
class Sets:
    """A set of files against a reference. `codes` only against a pack."""

    reference: str
    embeddings: list[Embedded]
    codes: PooledKL | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(embedding: Embedding, seconds: float, found: Cut, reference: Cut) -> Embedded:
    one, other = found.whole, reference.whole
    measured = None if one is None or other is None or min(one.items, other.items) < 2 else distances(one, other)
    return Embedded(
        embedding=embedding.name,
        dimension=None if one is None else one.points_ND.shape[1],
        sample_rate=int(embedding.sample_rate),
        sha256=getattr(embedding, "sha256", None),
        piece_seconds=seconds,
        items=one.items if one else 0,
        pieces=len(one.points_ND) if one else 0,
        reference_items=other.items if other else 0,
        reference_pieces=len(other.points_ND) if other else 0,
        left_out=dict(found.left_out),
        reference_left_out=dict(reference.left_out),
        distances=measured,
        remarks=_remarks(one, other, measured),
    )


def _remarks(one: Points | None, other: Points | None, measured: Distances | None) -> list[str]:
    if one is None or other is None or measured is None:
        return ["No distance: it needs two sounds of each side that are as long as a piece."]
    remarks = []
    if min(one.items, other.items) < FEW_ITEMS:
        remarks.append(
            f"{one.items} items against {other.items}: under {FEW_ITEMS} of a side these figures say little, and the"
            " Frechet distance is far too high. Compare with what is of one kind."
        )
    dimension = one.points_ND.shape[1]
    if any(len(side.points_ND) <= dimension for side in (one, other)):
        remarks.append(
            f"No more pieces than the {dimension} dimensions of the embedding: the Frechet distance is mostly the"
            " number of pieces. Use the kernel distance."
        )
    if measured.frechet_low is None:
        remarks.append(f"No intervals: they need {FEWEST} items of each side.")
    return remarks

"""Codes and pairs of codes, counted book by book, and the counting models that are made of them.

A model must beat these. All cross entropies are in nats a code, one for each book; `bits_per_second` puts them on the
scale that compares codecs and patterns: frame_rate * sum_k CE_k / ln 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.tokens import entropy
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec

Span = tuple[int, int, int]  # clip, first frame, last frame
GROUP_FRAMES = 2**20
TABLE_BYTES = 2**28
"""Memory for the pair tables [V, V] that are held at once; more books are counted in further passes."""
FOLDS = 3  # tables of a book that are held at once: two halves of the counted split, and the scored one


@dataclass(frozen=True)
class Counts:
    """How often each code of a book occurs [V], and each code after each [V, V]; first codes are in no pair."""

    n_V: NDArray[np.int64]
    n_VV: NDArray[np.int64]

    @classmethod
    def none(cls, cardinality: int) -> Counts:
        return cls(np.zeros(cardinality, dtype=np.int64), np.zeros((cardinality, cardinality), dtype=np.int64))

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.n_V + other.n_V, self.n_VV + other.n_VV)

    @property
    def unigram_V(self) -> NDArray[np.float64]:
        kinds = np.count_nonzero(self.n_V)
        return (self.n_V + kinds / len(self.n_V)) / (self.n_V.sum() + kinds)


def whole(pack: Pack, clips: NDArray[np.int64]) -> list[Span]:
    """The clips from their first frame to their last."""
    return [(int(clip), 0, int(frames)) for clip, frames in zip(clips, pack.clips.frames[clips], strict=True)]


def groups(spans: Sequence[Span], most: int = 2**62) -> Iterator[list[Span]]:
    """The spans in runs of about GROUP_FRAMES frames, `most` spans at most: counting pays per call, not per frame."""
    group: list[Span] = []
    held = 0
    for span in spans:
        group.append(span)
        held += span[2] - span[1]
        if held >= GROUP_FRAMES or len(group) >= most:
            yield group
            group, held = [], 0
    if group:
        yield group


def count(pack: Pack, spans: Sequence[Span], books: Sequence[int], *, lead: bool = False) -> list[Counts]:
    """Codes and pairs of the spans, for each of `books`, in one pass over the codes.

    With `lead` a span's first code is paired with the one before it in its clip. (A span longer than a group is read
    at once: it is one clip at most.)
    """
    found = [Counts.none(pack.spec.cardinalities[book]) for book in books]
    for group in groups(spans):
        leads = [int(lead and first > 0) for _, first, _ in group]
        parts = [
            pack.read(clip, first - before, last) for (clip, first, last), before in zip(group, leads, strict=True)
        ]
        codes_NK = np.concatenate(parts)
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        own = np.ones(len(codes_NK), dtype=bool)
        own[starts[np.asarray(leads, dtype=bool)]] = False
        joined = np.ones(max(0, len(codes_NK) - 1), dtype=bool)  # frame n + 1 follows frame n in the same span
        inner = starts[(starts > 0) & (starts < len(codes_NK))]
        joined[inner - 1] = False
        for book, counts in zip(books, found, strict=True):
            V = len(counts.n_V)
            column = codes_NK[:, book].astype(np.int64)
            counts.n_V[:] += np.bincount(column[own], minlength=V)
            pairs = (column[:-1] * V + column[1:])[joined]
            counts.n_VV[:] += np.bincount(pairs, minlength=V * V).reshape(V, V)
    return found


def batches(cardinalities: Sequence[int], books: Sequence[int]) -> Iterator[list[int]]:
    """The books in runs whose pair tables fit into TABLE_BYTES (one book at least)."""
    batch: list[int] = []
    held = 0
    for book in books:
        size = FOLDS * 8 * cardinalities[book] ** 2
        if batch and held + size > TABLE_BYTES:
            yield batch
            batch, held = [], 0
        batch.append(book)
        held += size
    if batch:
        yield batch


def halves(pack: Pack, clips: NDArray[np.int64]) -> tuple[list[Span], list[Span]]:
    """The clips in two parts that share no source; a single source is cut clip by clip in the middle."""
    spans = whole(pack, clips)
    source = [pack.clips.source[int(clip)] for clip in clips]
    sources = sorted(set(source), key=lambda name: keyed.key("half", name))
    if len(sources) < 2:
        return [(clip, 0, n // 2) for clip, _, n in spans], [(clip, n // 2, n) for clip, _, n in spans]
    first = set(sources[::2])
    inside = [name in first for name in source]
    return (
        [span for span, here in zip(spans, inside, strict=True) if here],
        [span for span, here in zip(spans, inside, strict=True) if not here],
    )


def unigram_ce(seen: Counts, held: Counts) -> float:
    """Mean nats of the codes `held` under the unigram of the codes `seen`."""
    return float(-(held.n_V @ np.log(seen.unigram_V)) / held.n_V.sum())


def bigram_ce(seen: Counts, held: Counts, strength: float) -> float:
    """The same for the bigram: `strength` is how many codes of the unigram's voice are mixed into each history."""
    return _bigram_nats(seen, held)(strength) / float(held.n_V.sum())


def _bigram_nats(seen: Counts, held: Counts) -> Callable[[float], float]:
    """Nats of all the codes `held` as a function of the strength; what does not depend on it is looked up once."""
    unigram_V = seen.unigram_V
    firsts = float((held.n_V - held.n_VV.sum(0)) @ np.log(unigram_V))
    before, after = np.nonzero(held.n_VV)
    times, pair, history = held.n_VV[before, after], seen.n_VV[before, after], seen.n_VV.sum(1)[before]
    alone = unigram_V[after]
    return lambda strength: -float(times @ np.log((pair + strength * alone) / (history + strength)) + firsts)


def fit(one: Counts, other: Counts) -> float:
    """The strength (a power of two) at which each half predicts the other best."""
    if not one.n_V.any() or not other.n_V.any():
        return 1.0  # a single code was counted: there is nothing to fit
    forth, back = _bigram_nats(one, other), _bigram_nats(other, one)
    return min((2.0**power for power in range(-3, 21)), key=lambda strength: forth(strength) + back(strength))


def bits_per_second(ce_K: Sequence[float], spec: CodecSpec) -> float:
    """Bits per second of audio of mean cross entropies in nats, one a book."""
    return float(spec.frame_rate) * sum(ce_K) / math.log(2)


@dataclass(frozen=True)
class Baselines:
    """Cross entropies (nats a code) of counting models, counted on one split and scored on another.

    The unigram knows how often each code of a book occurs, the bigram also the code of the same book one frame before.
    `data_entropy_K` is the entropy of the codes that were counted (nats): a model's output entropy is held against it.
    """

    unigram_ce_K: list[float]
    bigram_ce_K: list[float]
    unigram_bits_per_second: float
    bigram_bits_per_second: float
    data_entropy_K: list[float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class BookCounts:
    """The counts of one book: two halves of the counted split, and the codes that are scored."""

    one: Counts
    other: Counts
    held: Counts

    @property
    def seen(self) -> Counts:
        return self.one + self.other


def baselines(
    pack: Pack, *, count: str = "train", score: str = "valid", targets_K: Sequence[Sequence[Span]] | None = None
) -> Baselines:
    """Count on one split, score all codes of another, or only those of `targets_K` (for each book, spans of frames of
    clips): the very codes that a model is scored on. First frames of clips have no predecessor and are scored by the
    unigram.

    Nothing gets probability 0. The unigram is interpolated with the uniform distribution by Witten and Bell's weight
    (1991): with N codes of D kinds, p(c) = (n_c + D / V) / (N + D). The bigram with the unigram as a hierarchical
    Dirichlet model (MacKay & Peto 1995, eq. 10): p(c | h) = (n_hc + a p(c)) / (N_h + a). Its `a` is fitted for each
    book on the counted split, one half of the sources against the other. (Witten and Bell's a = D_h is the special
    case that fails on codes: nearly all pairs are new there, and the bigram would fall behind the unigram.)

    Raises PACK008 where a split is empty.
    """
    parts = halves(pack, pack.split(count))
    held = targets_K if targets_K is not None else whole(pack, pack.split(score))
    return assemble(pack.spec, [scores(book) for book in books(pack, parts, held)])


def books(
    pack: Pack, parts: tuple[Sequence[Span], Sequence[Span]], held: Sequence[Span] | Sequence[Sequence[Span]]
) -> Iterator[BookCounts]:
    """Each book in turn. `held` are spans for all books (read once for several), or spans of each book."""
    each = bool(held) and not isinstance(held[0], tuple)
    for batch in batches(pack.spec.cardinalities, range(pack.spec.codebooks)):
        one, other = (count(pack, part, batch) for part in parts)
        if each:
            scored = [count(pack, held[book], [book], lead=True)[0] for book in batch]  # type: ignore[arg-type]
        else:
            scored = count(pack, held, batch)  # type: ignore[arg-type]
        yield from map(BookCounts, one, other, scored)


def scores(book: BookCounts) -> tuple[float, float, float]:
    seen = book.seen
    strength = fit(book.one, book.other)
    return unigram_ce(seen, book.held), bigram_ce(seen, book.held, strength), float(entropy.entropy(seen.n_V))


def assemble(spec: CodecSpec, rows: Sequence[tuple[float, float, float]]) -> Baselines:
    unigram, bigram, data = map(list, zip(*rows, strict=True))
    return Baselines(unigram, bigram, bits_per_second(unigram, spec), bits_per_second(bigram, spec), data)

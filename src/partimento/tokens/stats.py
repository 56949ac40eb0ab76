"""What the codes of a pack are like, and what a model must beat: usage of each book, and counting baselines.

All cross entropies are in nats a code, one for each book; `bits_per_second` puts them on the scale that compares codecs
and patterns: frame_rate * sum_k CE_k / ln 2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.tokens.pack import SPLITS, Pack
from partimento.tokens.spec import CodecSpec


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
    counted = pack.split(count)
    halves = _halves(pack, counted)
    if targets_K is None:
        whole = [(int(clip), 0, int(pack.clips.frames[clip])) for clip in pack.split(score)]
        targets_K = [whole] * pack.spec.codebooks
    unigram, bigram, entropy = [], [], []
    for book in range(pack.spec.codebooks):
        folds = [_counts(pack, half, book) for half in halves]
        strength = _fit(folds)
        seen = folds[0] + folds[1]
        held = _counts(pack, targets_K[book], book, lead=True)
        unigram.append(unigram_ce(seen, held))
        bigram.append(bigram_ce(seen, held, strength))
        entropy.append(_entropy(seen.n_V))
    return Baselines(unigram, bigram, bits_per_second(unigram, pack.spec), bits_per_second(bigram, pack.spec), entropy)


@dataclass(frozen=True)
class Counts:
    """How often each code of a book occurs [V], and each code after each [V, V]; first codes are in no pair."""

    n_V: NDArray[np.int64]
    n_VV: NDArray[np.int64]

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.n_V + other.n_V, self.n_VV + other.n_VV)

    @property
    def unigram_V(self) -> NDArray[np.float64]:
        kinds = np.count_nonzero(self.n_V)
        return (self.n_V + kinds / len(self.n_V)) / (self.n_V.sum() + kinds)


def unigram_ce(seen: Counts, held: Counts) -> float:
    """Mean nats of the codes `held` under the unigram of the codes `seen`."""
    return float(-(held.n_V @ np.log(seen.unigram_V)) / held.n_V.sum())


def bigram_ce(seen: Counts, held: Counts, strength: float) -> float:
    """The same for the bigram: `strength` is how many codes of the unigram's voice are mixed into each history."""
    unigram_V = seen.unigram_V
    firsts_V = held.n_V - held.n_VV.sum(0)
    before, after = np.nonzero(held.n_VV)
    p = (seen.n_VV[before, after] + strength * unigram_V[after]) / (seen.n_VV.sum(1)[before] + strength)
    nats = held.n_VV[before, after] @ np.log(p) + firsts_V @ np.log(unigram_V)
    return float(-nats / held.n_V.sum())


def _fit(folds: Sequence[Counts]) -> float:
    """The strength (a power of two) at which each half predicts the other best."""
    one, other = folds
    if not one.n_V.any() or not other.n_V.any():
        return 1.0  # a single code was counted: there is nothing to fit
    choices = [2.0**power for power in range(-3, 21)]
    return min(
        choices, key=lambda a: bigram_ce(one, other, a) * other.n_V.sum() + bigram_ce(other, one, a) * one.n_V.sum()
    )


Span = tuple[int, int, int]  # clip, first frame, last frame


def _halves(pack: Pack, clips: NDArray[np.int64]) -> tuple[list[Span], list[Span]]:
    """The clips in two parts that share no source; a single source is cut clip by clip in the middle."""
    frames = [int(pack.clips.frames[clip]) for clip in clips]
    sources = sorted({pack.clips.source[clip] for clip in clips}, key=lambda name: keyed.key("half", name))
    if len(sources) < 2:
        cuts = [(int(clip), n // 2, n) for clip, n in zip(clips, frames, strict=True)]
        return [(clip, 0, cut) for clip, cut, _ in cuts], cuts
    first = set(sources[::2])
    spans = [(int(clip), 0, n) for clip, n in zip(clips, frames, strict=True)]
    inside = [pack.clips.source[clip] in first for clip in clips]
    return (
        [span for span, here in zip(spans, inside, strict=True) if here],
        [span for span, here in zip(spans, inside, strict=True) if not here],
    )


def _counts(pack: Pack, spans: Sequence[Span], book: int, *, lead: bool = False) -> Counts:
    """Codes and pairs of the spans. With `lead` a span's first code is paired with the one before it in its clip."""
    V = pack.spec.cardinalities[book]
    counts = Counts(np.zeros(V, dtype=np.int64), np.zeros((V, V), dtype=np.int64))
    for group in _groups(spans):
        leads = [int(lead and first > 0) for _, first, _ in group]
        columns = [
            pack.read(clip, first - before, last)[:, book].astype(np.int64)
            for (clip, first, last), before in zip(group, leads, strict=True)
        ]
        pairs = np.concatenate([column[:-1] * V + column[1:] for column in columns])
        own = [column[before:] for column, before in zip(columns, leads, strict=True)]
        n_V = np.bincount(np.concatenate(own), minlength=V)
        counts += Counts(n_V, np.bincount(pairs, minlength=V * V).reshape(V, V))
    return counts


def _groups(spans: Sequence[Span], frames: int = 2**20) -> Iterator[list[Span]]:
    """The spans in runs of about so many frames: counting pays per call, not per frame."""
    group: list[Span] = []
    held = 0
    for span in spans:
        group.append(span)
        held += span[2] - span[1]
        if held >= frames:
            yield group
            group, held = [], 0
    if group:
        yield group


def _entropy(n_V: NDArray[np.int64]) -> float:
    """Entropy in nats of counts."""
    p = n_V[n_V > 0] / n_V.sum()
    return float(-(p * np.log(p)).sum()) + 0.0


@dataclass(frozen=True)
class Usage:
    """How a book is used: `coverage` the share of its codes that occur, `entropy` in nats, `share` of the entropy that
    it could have, `perplexity` the number of equally used codes with that entropy."""

    book: int
    cardinality: int
    coverage: float
    entropy: float
    share: float
    perplexity: float


def usage(pack: Pack, split: str | None = None) -> list[Usage]:
    """One row a book, over a split or the whole pack."""
    clips = np.arange(len(pack.clips)) if split is None else pack.split(split)
    rows = []
    for book, cardinality in enumerate(pack.spec.cardinalities):
        n_V = np.zeros(cardinality, dtype=np.int64)
        for group in _groups([(int(clip), 0, int(pack.clips.frames[clip])) for clip in clips]):
            n_V += np.bincount(np.concatenate([pack.read(*span)[:, book] for span in group]), minlength=cardinality)
        entropy = _entropy(n_V)
        coverage = float(np.count_nonzero(n_V) / cardinality)
        rows.append(Usage(book, cardinality, coverage, entropy, entropy / math.log(cardinality), math.exp(entropy)))
    return rows


@dataclass(frozen=True)
class PackStats:
    """A pack at a glance. `tags` maps tag -> clips, most frequent first; `rejects` reason code -> count; `baselines` is
    None where there is no held-out split."""

    path: str
    fingerprint: str
    codec: str
    hours: float
    splits: dict[str, dict[str, Any]]
    shards: int
    bytes: int
    shortest_seconds: float
    median_seconds: float
    longest_seconds: float
    tags: dict[str, int]
    untagged: int
    rejects: dict[str, int]
    usage: list[Usage]
    baselines: Baselines | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def stats(pack: Pack) -> PackStats:
    """Read the whole pack (and so verify every clip) and sum it up."""
    seconds = np.asarray(pack.clips.samples) / pack.spec.sample_rate
    tags = Counter(tag for names in pack.clips.tags for tag in names)
    both = all(pack.content["splits"][name]["clips"] for name in SPLITS)
    return PackStats(
        path=str(pack.path),
        fingerprint=pack.fingerprint,
        codec=pack.spec.codec,
        hours=round(float(seconds.sum()) / 3600, 4),
        splits={name: dict(pack.content["splits"][name]) for name in SPLITS},
        shards=len(pack.shards),
        bytes=pack.totals["bytes"],
        shortest_seconds=round(float(seconds.min()), 3),
        median_seconds=round(float(np.median(seconds)), 3),
        longest_seconds=round(float(seconds.max()), 3),
        tags=dict(sorted(tags.items(), key=lambda item: (-item[1], item[0]))),
        untagged=sum(not names for names in pack.clips.tags),
        rejects=dict(pack.totals["rejects"]),
        usage=usage(pack),
        baselines=baselines(pack) if both else None,
    )

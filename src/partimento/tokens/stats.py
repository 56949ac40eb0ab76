"""What is in a pack: `stats` reads it and sums it up. Entropies are in nats a code, one for each book.

The codes are read twice, in order (once clip by clip, once for the pairs of codes; more often only where a codec's pair
tables do not fit into memory at once), and memory does not grow with the pack but for the fingerprints of its clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.errors import PartimentoError
from partimento.progress import Progress, Quiet
from partimento.tokens import clipwise, collection, duplicates, entropy, noise, silence
from partimento.tokens.counting import Baselines, BookCounts, Counts, assemble, books, halves, scores, whole
from partimento.tokens.coverage import Coverage, coverage
from partimento.tokens.draw import Draw
from partimento.tokens.findings import Finding, findings
from partimento.tokens.pack import SPLITS, Pack
from partimento.tokens.patterns import Pattern
from partimento.tokens.spec import Specials

SAMPLE_HOURS = 300.0
"""A pack of more hours is sampled, unless a sample is asked for."""
PAIRED_CODES = 4096
"""A book of more codes has no pair table [V, V] here (128 MB at 4096)."""
RANKS = 48
LISTED = 200  # duplicates and noisy clips that are listed by name


@dataclass(frozen=True)
class SplitEntropy:
    """Entropy of a book's codes in one split (bias taken off after Miller and Madow), and of a code where the one
    before it is known: less their mutual information above chance. Both in nats. An estimate, since pairs are many:
    a little high where codes nearly determine the next, far too low where few pairs were seen. The bigram's held-out
    cross entropy is what a model can be held against."""

    codes: int
    entropy: float
    bigram_entropy: float | None


@dataclass(frozen=True)
class Usage:
    """How a book is used: `coverage` the share of its codes that occur, `entropy` in nats, `share` of the entropy that
    it could have, `perplexity` the number of equally used codes with that entropy; `verdict` says whether there is
    anything but noise in it, `used` how often its most frequent codes occur (shares at the ranks `usage_ranks(V)`)."""

    book: int
    cardinality: int
    coverage: float
    entropy: float
    share: float
    perplexity: float
    verdict: noise.Verdict
    splits: dict[str, SplitEntropy]
    used: list[float]


@dataclass(frozen=True)
class Sample:
    """The clips whose codes were read; all of them, or a keyed sample (the same clips in every call)."""

    clips: int
    of: int
    hours: float

    @property
    def whole(self) -> bool:
        return self.clips == self.of


@dataclass(frozen=True)
class PackStats:
    """A pack at a glance. What comes from codes (usage, baselines, silence, noisy_clips, duplicates) is of `sample`,
    all else of the whole pack. `tags` maps tag -> clips, most frequent first; `rejects` reason code -> count;
    `baselines` is None where there is no held-out split, `draw` where no window can be drawn (`draw_missing` says
    why)."""

    path: str
    fingerprint: str
    spec: dict[str, Any]
    hours: float
    clips: int
    splits: dict[str, dict[str, Any]]
    shards: int
    bytes: int
    sample: Sample
    sources: dict[str, Any]
    seconds: collection.Spread | None
    tags: dict[str, int]
    untagged: int
    tag_pairs: list[collection.TagPair]
    levels: collection.Levels
    licences: list[collection.LicenceRow]
    rejects: dict[str, int]
    usage: list[Usage]
    baselines: Baselines | None
    silence: silence.Silence
    noisy_clips: dict[str, dict[str, Any]]
    duplicates: duplicates.Summary
    draw: Coverage | None
    draw_missing: str | None
    findings: list[Finding] = field(default_factory=list)

    @property
    def codec(self) -> str:
        return str(self.spec["codec"])

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        return {**tree, "draw": self.draw.to_json() if self.draw else None}


def stats(
    pack: Pack,
    *,
    sample: int | None = None,
    window: int = 256,
    pattern: str = "delay",
    seed: int = 0,
    epochs: float = 1.0,
    progress: Progress | None = None,
) -> PackStats:
    """Read a pack (and so verify every clip that is read) and sum it up, the draw of `epochs` with this window, pattern
    and seed included.

    Codes are read of all clips up to SAMPLE_HOURS, else of a keyed sample of about so many hours; `sample` sets the
    number of clips. Raises what `Pack.read` raises where a clip is damaged, and TOKEN001 for an unknown pattern.
    """
    progress = progress or Quiet()
    spec = pack.spec
    seconds = np.asarray(pack.clips.samples, dtype=np.float64) / spec.sample_rate
    clips = chosen(len(pack.clips), float(seconds.sum()) / 3600, sample)
    split_C = np.asarray(pack.clips.split_codes, dtype=np.int64)
    tags, untagged, tag_pairs = collection.tag_counts(pack.clips.tags)

    progress.stage("Reading clips", "each clip once: repeated frames, noise, fingerprints")
    runs = clipwise.Runs(len(clips), float(spec.frame_rate))
    noisy = noise.ClipNoise(len(clips), spec.cardinalities)
    fingerprints = duplicates.Fingerprints()
    clipwise.read(pack, clips, [runs, noisy, fingerprints], progress)
    progress.stage("Comparing clips", "those with fingerprints in common")
    found = duplicates.find(pack, clips, fingerprints, progress)
    progress.stage("Counting codes", "codes and pairs of codes, book by book")
    usage, models = _books(pack, clips, split_C, progress)
    progress.stage("Drawing", "which frames a training sees")
    drawn, draw_missing = _draw(pack, window, pattern, seed, epochs, progress)

    noisy_rows = noisy.found()
    result = PackStats(
        path=pack.name,
        fingerprint=pack.fingerprint,
        spec=spec.to_json(),
        hours=round(float(seconds.sum()) / 3600, 4),
        clips=len(pack.clips),
        splits={name: dict(pack.content["splits"][name]) for name in SPLITS},
        shards=len(pack.shards),
        bytes=pack.totals["bytes"],
        sample=Sample(len(clips), len(pack.clips), round(float(seconds[clips].sum()) / 3600, 4)),
        sources=collection.sources(pack),
        seconds=collection.spread(seconds, collection.LENGTH_BINS, log=bool((seconds > 0).all())),
        tags=tags,
        untagged=untagged,
        tag_pairs=tag_pairs,
        levels=collection.levels(pack),
        licences=collection.licence_rows(pack.clips.licence, seconds),
        rejects=dict(pack.totals["rejects"]),
        usage=usage,
        baselines=models,
        silence=silence.summary(pack, clips, runs),
        noisy_clips={pack.clips.clip[int(clips[row])]: noisy_rows[row] for row in sorted(noisy_rows)},
        duplicates=duplicates.summary(pack, found, LISTED),
        draw=drawn,
        draw_missing=draw_missing,
    )
    result.findings.extend(findings(result))
    return result


def chosen(clips: int, hours: float, sample: int | None) -> NDArray[np.int64]:
    """The clips whose codes are read, in order: all, or a keyed sample, of which a larger one contains the smaller."""
    if sample is None:
        sample = clips if hours <= SAMPLE_HOURS else max(1, round(clips * SAMPLE_HOURS / hours))
    if sample >= clips:
        return np.arange(clips)
    return np.sort(keyed.permute_many(np.arange(sample), clips, "pack stats"))


def _books(
    pack: Pack, clips: NDArray[np.int64], split_C: NDArray[np.int64], progress: Progress
) -> tuple[list[Usage], Baselines | None]:
    """Usage of each book over these clips, and the baselines where both splits have some of them."""
    train, valid = (clips[split_C[clips] == number] for number in range(len(SPLITS)))
    parts = halves(pack, train) if len(train) else ([], [])
    paired = max(pack.spec.cardinalities) <= PAIRED_CODES
    usage: list[Usage] = []
    rows: list[tuple[float, float, float]] = []
    counted = books(pack, parts, whole(pack, valid)) if paired else _unpaired(pack, clips, split_C)
    for book in counted:
        if paired and book.seen.n_V.any() and book.held.n_V.any():
            rows.append(scores(book))
        usage.append(_usage(len(usage), book, paired))
        progress.update(len(usage), pack.spec.codebooks, book=len(usage))
    return usage, assemble(pack.spec, rows) if len(rows) == len(usage) else None


def _unpaired(pack: Pack, clips: NDArray[np.int64], split_C: NDArray[np.int64]) -> Iterator[BookCounts]:
    """Books that are too large for tables of pairs: codes only."""
    single = clipwise.UnigramCounts(pack.spec.cardinalities, split_C[clips], len(SPLITS))
    clipwise.read(pack, clips, [single])
    nothing = np.zeros((0, 0), dtype=np.int64)
    for train, valid in zip(*single.n_SKV, strict=True):
        yield BookCounts(Counts(train, nothing), Counts(np.zeros_like(train), nothing), Counts(valid, nothing))


def usage_ranks(cardinality: int) -> NDArray[np.int64]:
    """Ranks from 1 (the most frequent code) to V, in about equal ratios."""
    return np.unique(np.geomspace(1, cardinality, RANKS).astype(np.int64))


def _usage(number: int, book: BookCounts, paired: bool) -> Usage:
    seen = book.seen
    total = seen + book.held
    nats = float(entropy.entropy(total.n_V))
    V = len(total.n_V)
    ranks = usage_ranks(V) - 1
    return Usage(
        book=number,
        cardinality=V,
        coverage=float(entropy.coverage(total.n_V)),
        entropy=nats,
        share=nats / math.log(V),
        perplexity=float(entropy.perplexity(nats)),
        verdict=noise.judge(total.n_V, total.n_VV if paired else None),
        splits={
            name: _split_entropy(counts, paired)
            for name, counts in zip(SPLITS, (seen, book.held), strict=True)
            if counts.n_V.any()
        },
        used=(np.sort(total.n_V)[::-1][ranks] / total.n_V.sum()).tolist(),
    )


def _split_entropy(counts: Counts, paired: bool) -> SplitEntropy:
    nats = float(entropy.miller_madow(counts.n_V))
    known = max(0.0, nats - max(0.0, entropy.excess_mutual(counts.n_VV))) if paired and counts.n_VV.any() else None
    return SplitEntropy(int(counts.n_V.sum()), nats, known)


def _draw(
    pack: Pack, window: int, pattern: str, seed: int, epochs: float, progress: Progress
) -> tuple[Coverage | None, str | None]:
    """What the draw of the train split covers; the reason where it cannot be drawn (a window that no clip fills)."""
    shape = Pattern.named(pattern, pack.spec.codebooks)
    try:
        draw = Draw(pack, shape, Specials.after(pack.spec.cardinality), window=window, seed=seed)
    except PartimentoError as err:
        if err.code not in ("PACK007", "PACK008"):
            raise
        return None, f"{err.message}: {err.why}"
    return coverage(draw, epochs=epochs, progress=progress), None

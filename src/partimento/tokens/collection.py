"""What the clip table alone says of a pack: lengths, sources, tags and their company, loudness, licences.

The codes are not read, so it covers all clips even where the codes are sampled.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from partimento.tokens import licence as licences
from partimento.tokens.pack import Pack

TOP_TAGS = 200
"""Co-occurrence is counted among so many of the most frequent tags."""
TOP_PAIRS = 30
LARGEST = 10
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
LENGTH_BINS, LOUDNESS_BINS = 30, 30
QUIET_LU = 20.0
FULL_SCALE_DBFS = -0.1


@dataclass(frozen=True)
class Spread:
    """Quantiles (percent -> value) and a histogram: `counts[i]` values lie in edges[i]..edges[i + 1]. `missing` values
    were not measured, `infinite` ones are -inf (silence, on a scale in decibels)."""

    quantiles: dict[str, float]
    edges: list[float]
    counts: list[int]
    missing: int = 0
    infinite: int = 0


def spread(values: ArrayLike, bins: int, *, log: bool = False) -> Spread | None:
    """None where no value is finite. With `log` the bins have equal ratios (all values must be above 0 then)."""
    column = np.asarray(values, dtype=np.float64)
    finite = column[np.isfinite(column)]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    if log:
        edges = np.geomspace(low, high, bins + 1) if high > low else np.asarray([low / 1.01, low * 1.01])
        edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # rounding must not lose the extremes
        counts = np.histogram(finite, edges)[0]
    else:
        counts, edges = np.histogram(finite, bins if high > low else 1)
    points = np.percentile(finite, QUANTILES)
    return Spread(
        quantiles={str(percent): round(float(value), 4) for percent, value in zip(QUANTILES, points, strict=True)},
        edges=[round(float(edge), 4) for edge in edges],
        counts=counts.tolist(),
        missing=int(np.isnan(column).sum()),
        infinite=int(np.isneginf(column).sum()),
    )


@dataclass(frozen=True)
class TagPair:
    """Two tags on the same clip: how often, and `lift`, how many times as often as if they were independent."""

    first: str
    second: str
    clips: int
    lift: float


def tag_counts(column: Iterable[Sequence[str]]) -> tuple[dict[str, int], int, list[TagPair]]:
    """(tag -> clips, most frequent first; clips without a tag; the pairs that occur most often).

    The column is gone through twice and never held: a pack may have millions of clips.
    """
    counts: Counter[str] = Counter()
    clips = untagged = 0
    for tags in column:
        counts.update(set(tags))
        clips += 1
        untagged += not tags
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    known = {tag for tag, _ in ranked[:TOP_TAGS]}
    pairs: Counter[tuple[str, ...]] = Counter()
    for tags in column:
        pairs.update(combinations(sorted(known.intersection(tags)), 2))
    top = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:TOP_PAIRS]
    found = [TagPair(a, b, n, n * clips / (counts[a] * counts[b])) for (a, b), n in top]
    return dict(ranked), untagged, found


@dataclass(frozen=True)
class LicenceRow:
    """Clips and hours under one licence text (None: none given). The four duties are None where the text was not
    understood."""

    licence: str | None
    clips: int
    hours: float
    name: str | None
    attribution: bool | None
    non_commercial: bool | None
    no_derivatives: bool | None
    share_alike: bool | None


def licence_rows(texts: Iterable[str | None], seconds_C: NDArray[np.float64]) -> list[LicenceRow]:
    """One row a licence text, most hours first."""
    clips: Counter[str | None] = Counter()
    seconds: defaultdict[str | None, float] = defaultdict(float)
    for text, length in zip(texts, seconds_C, strict=True):
        clips[text] += 1
        seconds[text] += float(length)
    rows = []
    for text in sorted(clips, key=lambda text: (-seconds[text], text or "")):
        known = licences.read(text)
        rows.append(
            LicenceRow(
                licence=text,
                clips=clips[text],
                hours=round(seconds[text] / 3600, 4),
                name=known.name if known else None,
                attribution=known.attribution if known else None,
                non_commercial=known.non_commercial if known else None,
                no_derivatives=known.no_derivatives if known else None,
                share_alike=known.share_alike if known else None,
            )
        )
    return rows


@dataclass(frozen=True)
class Levels:
    """Loudness (LUFS) and peak (dBFS) of the clips. `quiet` clips lie more than QUIET_LU under the median (or are
    silent), `full_scale` ones peak at FULL_SCALE_DBFS or above: most of these are clipped."""

    loudness: Spread | None
    peak: Spread | None
    quiet: list[str]
    quiet_clips: int
    full_scale: int


def levels(pack: Pack) -> Levels:
    loudness, peak = _decibels(pack.clips.loudness), _decibels(pack.clips.peak)
    found = spread(loudness, LOUDNESS_BINS)
    quiet = np.isneginf(loudness)
    if found is not None:
        quiet |= loudness < found.quantiles["50"] - QUIET_LU
    worst = sorted(np.flatnonzero(quiet).tolist(), key=lambda clip: (loudness[clip], clip))
    return Levels(
        loudness=found,
        peak=spread(peak, LOUDNESS_BINS),
        quiet=[pack.clips.clip[clip] for clip in worst[:20]],
        quiet_clips=len(worst),
        full_scale=int((peak >= FULL_SCALE_DBFS).sum()),
    )


def _decibels(column: Sequence[float | None]) -> NDArray[np.float64]:
    """NaN where there is no value."""
    values = (math.nan if value is None else value for value in column)
    return np.fromiter(values, dtype=np.float64, count=len(column))


def sources(pack: Pack) -> dict[str, Any]:
    """How many sources, the clips of the largest ones, and the share of the hours that the LARGEST hold."""
    columns = {"source": pack.clips.source.arrow.cast(pa.large_string()), "samples": np.asarray(pack.clips.samples)}
    table = pa.table(columns).group_by("source").aggregate([("samples", "sum"), ("samples", "count")])
    names, clips = table["source"], table["samples_count"]
    samples = table["samples_sum"].to_numpy()
    place = np.argsort(-samples, kind="stable")[:LARGEST].tolist()
    hours = samples / pack.spec.sample_rate / 3600
    return {
        "count": len(table),
        "largest": [
            {"source": names[i].as_py(), "clips": clips[i].as_py(), "hours": round(float(hours[i]), 4)} for i in place
        ],
        "largest_share": float(samples[place].sum() / samples.sum()) if samples.any() else 0.0,
    }

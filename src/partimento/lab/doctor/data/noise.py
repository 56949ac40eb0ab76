"""Noise in place of music: books that count as noise, clips of noise, and a loss that stays at a guess.

The rule for the log is that of explain-loss (`explainloss.floors.Standing.noise`), the tests of the codes themselves
are those of `tokens.noise`.
"""

from __future__ import annotations

import math

import numpy as np

from partimento.lab import charts
from partimento.lab.charts import Line
from partimento.lab.doctor.data.seen import Seen
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.explainloss.floors import Standing
from partimento.lab.explainloss.judged import standing_of
from partimento.tokens import counting, noise

PAIRED_CODES = 2048
"""A book of more codes has no table of pairs here (32 MB at 2048)."""
CLIPS, MOST_CLIPS = 0.1, 0.5  # share of the music in clips of noise that is a fault, and that leaves nothing to learn


def examine(seen: Seen) -> Examined:
    standing = standing_of(seen.patient.record) if seen.patient.record is not None else None
    logged = None if standing is None else standing.noise
    told = [] if standing is None else _floors(standing, draw=False)
    if seen.pack is None:
        if logged is None:
            return Examined(missing=(f"Whether the data are noise: no floors are in the log, and {seen.why}.",))
        if not logged:
            return Examined(fine=(f"The data are no noise: {told[0].text}",))
        return Examined((Finding("noise_data", 0.8, tuple(_floors(standing, draw=True))),))
    kinds = _books(seen)
    coarse = [kinds[book] for book in _first_books(seen)]
    share, names = _clips(seen)
    confidence = 0.0
    if all(kind in ("uniform", "orderless") for kind in coarse):
        confidence = 0.95 if all(kind == "uniform" for kind in kinds) else 0.75
    elif share >= CLIPS:
        confidence = round(0.6 + 0.35 * min(1.0, share / MOST_CLIPS), 2)
    elif logged and "ordered" not in coarse:
        confidence = 0.8
    elif share > 0:
        confidence = 0.3
    evidence = [Evidence(f"Of {seen.how_much}, {_named(kinds)}.")]
    if share > 0:
        evidence.append(Evidence(f"{100 * share:.0f} % of the music is in clips of noise: {_some(names)}."))
    if confidence:
        told = [] if standing is None else _floors(standing, draw=True)
        where = names[0] if share > 0 and confidence < 0.75 else None
        return Examined((Finding("noise_data", confidence, (*evidence, *told), where),))
    if all(kind == "unknown" for kind in coarse):
        return Examined(missing=(f"Whether the data are noise: too few codes to tell ({seen.how_much}).",))
    return Examined(fine=(f"The data are no noise: of {seen.how_much}, {_named(kinds)}.",))


def _first_books(seen: Seen) -> list[int]:
    """The coarsest book of each channel."""
    assert seen.pack is not None
    books = seen.pack.spec.books
    return [0] if not books else [0, books[0]]


def _books(seen: Seen) -> list[str]:
    """The kind of each book (`tokens.noise.Verdict`), by all clips that were read."""
    pack, read = seen.pack, seen.read
    assert pack is not None
    small = [book for book, V in enumerate(pack.spec.cardinalities) if V <= PAIRED_CODES]
    pairs = dict(zip(small, counting.count(pack, counting.whole(pack, read.clips), small), strict=True))
    count_KV = [train + valid for train, valid in zip(*read.count_SKV, strict=True)]
    return [
        noise.judge(count_V, pairs[book].n_VV if book in pairs else None).kind for book, count_V in enumerate(count_KV)
    ]


def _clips(seen: Seen) -> tuple[float, list[str]]:
    """Share of the frames that are in clips of noise, and their names."""
    assert seen.pack is not None
    rows = sorted(seen.read.noisy.found())
    frames_C = seen.read.frames_C
    share = float(frames_C[rows].sum() / max(1, frames_C.sum())) if rows else 0.0
    return share, [str(seen.pack.clips.clip[int(seen.read.clips[row])]) for row in rows]


_TOLD = {
    "uniform": "drawn alike, one by one",
    "orderless": "without order in time",
    "constant": "one code nearly always",
    "ordered": "in order",
    "unknown": "too short to tell",
}


def _named(kinds: list[str]) -> str:
    """ "the codes of book 1 are in order, those of books 2, 3 without order in time"."""
    said = []
    for kind in dict.fromkeys(kinds):
        books = [str(number) for number, one in enumerate(kinds, 1) if one == kind]
        said.append(f"book{'s' * (len(books) > 1)} {', '.join(books)}: {_TOLD[kind]}")
    return "; ".join(said)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _floors(standing: Standing | None, *, draw: bool) -> list[Evidence]:
    if standing is None:
        return []
    mean = standing.mean
    if mean.random is None or mean.unigram is None:
        return []
    said = f"guessing costs {mean.random:.2f} nats a code, counting held-out codes {mean.unigram:.2f}"
    said += "" if mean.bigram is None else f", pairs of codes {mean.bigram:.2f}"
    said += "" if standing.valid is None else f", the model {standing.valid:.2f}"
    rows = [
        Line(label, range(1, len(standing.books) + 1), [math.nan if v is None else v for v in values], colour)
        for label, values, colour in (
            ("guess", [one.random for one in standing.books], charts.MUTED),
            ("unigram", [one.unigram for one in standing.books], charts.AMBER),
            ("bigram", [one.bigram for one in standing.books], charts.GREEN),
            ("model", list(standing.valid_K), charts.BLUE),
        )
        if np.isfinite([math.nan if v is None else v for v in values]).any()
    ]
    chart = (
        charts.by_book("doctor-noise", rows, y_label="nats a code, held out", from_zero=True, height=2.0)
        if draw
        else None
    )
    return [Evidence(f"{said[0].upper()}{said[1:]}.", chart)]

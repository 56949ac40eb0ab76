"""Codes that held-out clips use and that training never shows, book by book.

A small pack never shows all codes, and other music uses others, so the same is asked of each source of the training
clips against all others: what these lack of it is the measure, and how far sources differ in it is the doubt. (Sources
are split by chance, so a held-out one is, where nothing is wrong, one of the same kind. A single odd one is no fault.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento import keyed
from partimento.lab import charts
from partimento.lab.charts import Line
from partimento.lab.doctor.data.seen import Clips, Seen
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.tokens.pack import Pack

LEAST = 0.02  # of the held-out codes of a book
TIMES, SPREADS = 2.0, 3.0  # what sources lack of one another, and standard errors of that, which are no fault
SOURCES = 64  # that are asked
FEW = 4  # sources, under which they say nothing of one another


def examine(seen: Seen, pack: Pack) -> Examined:
    what = "Codes that training never shows"
    train_KV, valid_KV = seen.read.count_SKV
    if not train_KV[0].any() or not valid_KV[0].any():
        return Examined(missing=(f"{what}: a split has no clips.",))
    unseen_K = _unseen(train_KV, valid_KV)
    said = f"{100 * unseen_K.mean():.2g} % of the held-out codes never occur in the training clips"
    partly = "" if len(seen.read.train) == len(seen.splits[0]) else f", of {seen.how_much}"
    if unseen_K.max() < LEAST:
        return Examined(fine=(f"Training shows the codes of the held-out clips: {said}{partly}.",))
    lacking_SK = _sources(pack, seen.read.train, train_KV, among=True)
    held_SK = _sources(pack, seen.read.valid, train_KV, among=False)
    usual_K, spread_K = lacking_SK.mean(axis=0), lacking_SK.std(axis=0)
    held_spread_K = np.maximum(spread_K, held_SK.std(axis=0))  # of one source alone it would be 0
    doubt_K = np.sqrt(spread_K**2 / len(lacking_SK) + held_spread_K**2 / len(held_SK))
    excess_K = np.minimum(unseen_K, held_SK.mean(axis=0)) - TIMES * usual_K - SPREADS * doubt_K
    worst = int(np.argmax(excess_K))
    books = range(1, len(unseen_K) + 1)
    evidence = [
        Evidence(
            f"{said} (by book {', '.join(f'{100 * share:.2g}' for share in unseen_K)}){partly}.",
            charts.by_book(
                "doctor-unseen",
                [
                    Line("held out", books, (100 * unseen_K).tolist(), charts.VERMILION),
                    Line("a training source", books, (100 * usual_K).tolist(), charts.MUTED),
                ],
                y_label="% of the codes, unseen in (the rest of) training",
                height=2.0,
            ),
        )
    ]
    if len(lacking_SK) < FEW:
        evidence.append(
            Evidence(f"Training sources are too few ({len(lacking_SK)}) to tell how much of that is usual.")
        )
        return Examined((Finding("unseen_codes", 0.3, tuple(evidence), f"book {worst + 1}"),))
    usual = f"{100 * usual_K.mean():.2g} % of the codes of a training source occur in no other one"
    evidence.append(Evidence(f"{usual}, on average of {len(lacking_SK)}."))
    excess = float(excess_K[worst])
    confidence = 0.3 if excess < LEAST else min(0.9, 0.55 + excess)
    return Examined((Finding("unseen_codes", round(confidence, 2), tuple(evidence), f"book {worst + 1}"),))


def _unseen(shown_KV: list[NDArray[np.int64]], held_KV: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """[K]: share of the codes of `held` whose code never occurs in `shown`."""
    return np.array(
        [held_V[shown_V == 0].sum() / max(1, held_V.sum()) for shown_V, held_V in zip(shown_KV, held_KV, strict=True)]
    )


def _sources(pack: Pack, clips: Clips, train_KV: list[NDArray[np.int64]], *, among: bool) -> NDArray[np.float64]:
    """[S, K]: the same of some sources of the clips; if they are `among` the training clips, against all others."""
    found: dict[str, list[int]] = {}
    for clip in clips.tolist():
        found.setdefault(str(pack.clips.source[clip]), []).append(clip)
    rows = []
    for name in sorted(found, key=lambda name: keyed.key("unseen", name))[:SOURCES]:
        codes_NK = np.concatenate([pack.read(clip) for clip in found[name]])
        if len(codes_NK):
            own_KV = [np.bincount(codes_NK[:, book], minlength=len(n_V)) for book, n_V in enumerate(train_KV)]
            others_KV = [n_V - among * own_V for n_V, own_V in zip(train_KV, own_KV, strict=True)]
            rows.append(_unseen(others_KV, own_KV))
    return np.array(rows)

"""Codes that held-out clips use and that training never shows, book by book.

A small pack never shows all codes, and other music uses others, so the same is asked of two halves of the training
clips that share no source: what the one half has and the other has not is the measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.lab import charts
from partimento.lab.charts import Line
from partimento.lab.doctor.data.seen import Clips, Seen
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.tokens import counting
from partimento.tokens.pack import Pack

LEAST = 0.02  # of the held-out codes of a book
TIMES = 2.0  # what halves of the training clips show of one another


def examine(seen: Seen, pack: Pack) -> Examined:
    what = "Codes that training never shows"
    train_KV, valid_KV = seen.read.count_SKV
    if not train_KV[0].any() or not valid_KV[0].any():
        return Examined(missing=(f"{what}: a split has no clips.",))
    unseen_K = _unseen(train_KV, valid_KV)
    usual_K = _halves(pack, seen.read.train)
    worst = int(np.argmax(unseen_K - TIMES * usual_K))
    said = f"{100 * unseen_K.mean():.2g} % of the held-out codes never occur in the training clips"
    partly = "" if len(seen.read.train) == len(seen.splits[0]) else f", of {seen.how_much}"
    if unseen_K.max() < LEAST:
        return Examined(fine=(f"Training shows the codes of the held-out clips: {said}{partly}.",))
    books = range(1, len(unseen_K) + 1)
    evidence = [
        Evidence(
            f"{said} (by book {', '.join(f'{100 * share:.2g}' for share in unseen_K)}){partly}.",
            charts.by_book(
                "doctor-unseen",
                [
                    Line("held out", books, (100 * unseen_K).tolist(), charts.VERMILION),
                    Line("training halves", books, (100 * usual_K).tolist(), charts.MUTED),
                ],
                y_label="% of the codes, unseen in training",
                height=2.0,
            ),
        ),
        Evidence(f"Halves of the training clips have {100 * usual_K.mean():.2g} % of such codes against one another."),
    ]
    excess = float(unseen_K[worst] - TIMES * usual_K[worst])
    confidence = 0.3 if excess < LEAST else min(0.9, 0.55 + excess)
    return Examined((Finding("unseen_codes", round(confidence, 2), tuple(evidence), f"book {worst + 1}"),))


def _unseen(shown_KV: list[NDArray[np.int64]], held_KV: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """[K]: share of the codes of `held` whose code never occurs in `shown`."""
    return np.array(
        [held_V[shown_V == 0].sum() / max(1, held_V.sum()) for shown_V, held_V in zip(shown_KV, held_KV, strict=True)]
    )


def _halves(pack: Pack, train: Clips) -> NDArray[np.float64]:
    """[K]: the same of each half of the training clips against the other, the mean of both."""
    counts = []
    for spans in counting.halves(pack, train):
        parts = [pack.read(*span) for span in spans]
        codes_NK = np.concatenate(parts) if parts else np.zeros((0, pack.spec.codebooks), dtype=np.uint16)
        counts.append([np.bincount(codes_NK[:, book], minlength=V) for book, V in enumerate(pack.spec.cardinalities)])
    return (_unseen(counts[0], counts[1]) + _unseen(counts[1], counts[0])) / 2

"""Codes that were in no batch: those that the draw keeps from training, those that only held-out clips have, and those
that no clip has. Only the first two are a disease: a codec, or a kind of music, may leave codes unused for good.

Shapes: C clips, K books, V codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.lab.doctor import pictures
from partimento.lab.doctor.data import unseen
from partimento.lab.doctor.finding import LIKELY, Evidence, Examined, Finding
from partimento.lab.doctor.pictures import Bar
from partimento.lab.doctor.weights.case import Case, graded
from partimento.lab.doctor.weights.profile import Profile
from partimento.lab.doctor.weights.rows import Books
from partimento.tokens import clipwise
from partimento.tokens.clipwise import Group
from partimento.tokens.pack import Pack

OFTEN = 12.0
"""Windows that can be expected to have shown a code; that none did is then no chance (e^-12)."""
UNKNOWN = 0.45
"""At most, where the pack is gone: a pack of an hour of drums alone has a fifth of the codes of a book nowhere."""
ENOUGH = 100.0
"""Codes of a book that were drawn so often on average: rare ones may be missing before that."""
_SHARE = ((0.0, 0.2), (0.02, 0.3), (0.06, 0.4), (0.12, UNKNOWN))
_KEPT = ((0.0, 0.3), (0.01, 0.55), (0.05, 0.85), (0.2, 0.93))
"""By the share of the codes of a book that are kept from training: a few are the matter of a clip, not of a run."""
_LISTED = 8


def examine(case: Case, one: Profile, books: Books) -> Examined:
    """Of a table of input rows: those without any second moment. (Output rows learn from every batch.)"""
    assert books.dead is not None
    if books.layout.what != "input rows" or one.empty:
        return Examined()  # where all are empty it is no matter of single codes: see `moving.gradients`
    sizes, dead_K = books.layout.codes, books.dead
    if not any(dead_K):
        return Examined(fine=(f"Every code of the {len(sizes)} books has been in a batch ({one.name}).",))
    pack = case.patient.pack
    known = pack is not None and len(pack.spec.cardinalities) == len(sizes)
    found = _in_pack(case, one, dead_K, pack) if pack is not None and known else _alone(case, one, dead_K, sizes)
    if isinstance(found, str):
        return Examined(fine=(f"{_told(case, one, dead_K, sizes)} {found}",))
    sure, why = found
    chart = None
    if sure >= LIKELY:
        shares = [100 * len(dead) / size for dead, size in zip(dead_K, sizes, strict=True)]
        rows = [Bar(f"book {book}", share, odd=share > 0) for book, share in enumerate(shares, 1)]
        chart = pictures.bars("codes that were in no batch", rows, unit=" %")
    evidence = (Evidence(_told(case, one, dead_K, sizes), chart), Evidence(why))
    named = ", ".join(str(book + 1) for book, dead in enumerate(dead_K) if dead)
    return Examined((Finding("dead_codes", round(sure, 2), evidence, f"{one.name}, books {named}"),))


def _told(case: Case, one: Profile, dead_K: list[list[int]], sizes: tuple[int, ...]) -> str:
    worst = max(range(len(sizes)), key=lambda book: len(dead_K[book]) / sizes[book])
    dead = dead_K[worst]
    text = (
        f"{len(dead)} of {sizes[worst]} codes of book {worst + 1} were in no batch of {case.snapshot.step:,} steps: "
        f"their rows of {one.name} have no second moment ({_listed(dead)})."
    )
    if len(sizes) > 1:
        text += f" Over the {len(sizes)} books it is {sum(map(len, dead_K))} of {sum(sizes)}."
    seen = _drawn(case)
    return (
        text if seen is None else f"{text} A code of this book was drawn {seen / sizes[worst]:,.0f} times on average."
    )


def _listed(codes: list[int]) -> str:
    return ", ".join(map(str, codes[:_LISTED])) + (", ..." if len(codes) > _LISTED else "")


def _drawn(case: Case) -> float | None:
    """Rows that were drawn so far; None where the window is not known."""
    samples, window = case.state.get("samples_seen"), (case.patient.raw.get("data") or {}).get("window")
    return float(samples * window) if isinstance(samples, int) and isinstance(window, int) else None


def _alone(case: Case, one: Profile, dead_K: list[list[int]], sizes: tuple[int, ...]) -> tuple[float, str]:
    """Without the pack nobody can tell a code that was kept back from one that no music has."""
    share = max(len(dead) / size for dead, size in zip(dead_K, sizes, strict=True))
    sure, drawn = graded(share, _SHARE), _drawn(case)
    if drawn is not None and drawn / max(sizes) < ENOUGH:
        sure = min(sure, 0.3)
    why = case.patient.pack_missing or "one table is for all books"
    return sure, f"Whether any clip has them is not known: {why}."


def _in_pack(case: Case, one: Profile, dead_K: list[list[int]], pack: Pack) -> tuple[float, str] | str:
    """(confidence, why), or a sentence on why it is none. Raises what reading a damaged pack does."""
    seen = case.patient.seen
    train_KV, valid_KV = seen.read.count_SKV
    shown = [[code for code in dead if train_KV[book][code]] for book, dead in enumerate(dead_K)]
    windows, of = _windows(case, pack, shown)
    hidden = [[code for code in codes if windows[book][code] >= OFTEN] for book, codes in enumerate(shown)]
    used_K = [max(1, int(np.count_nonzero(counts))) for counts in train_KV]
    if any(hidden):
        worst = max(range(len(hidden)), key=lambda book: len(hidden[book]) / used_K[book])
        expected = min(windows[worst][code] for code in hidden[worst])
        text = (
            f"{len(hidden[worst])} of them ({_listed(hidden[worst])}) stand in the training clips, each in so many "
            f"that {expected:,.0f} or more of {of:,} windows ought to have shown it: the draw leaves them out."
        )
        return graded(len(hidden[worst]) / used_K[worst], _KEPT), text
    held = sum(int(valid_KV[book][dead].sum()) for book, dead in enumerate(dead_K))
    verdict = next(iter(unseen.examine(seen, pack).findings), None) if held else None
    if verdict is not None and verdict.confidence >= LIKELY:
        text = f"No training clip has them, and {held:,} of the held-out codes are of these: {verdict.evidence[0].text}"
        rows_K = [np.count_nonzero(valid_KV[book][dead]) / used_K[book] for book, dead in enumerate(dead_K)]
        return min(verdict.confidence, graded(max(rows_K), _KEPT)), text
    nowhere = sum(len(dead) for dead in dead_K) - sum(map(len, shown))
    rare = f"; the others ({sum(map(len, shown))}) are too rare to have come up" if any(shown) else ""
    few = f", and {held:,} of the held-out codes are of them, no more than chance" if held else ", nor any held-out one"
    return f"That is well: {nowhere} of them are in no training clip{few}{rare}."


def _windows(case: Case, pack: Pack, codes_K: list[list[int]]) -> tuple[list[dict[int, float]], int]:
    """([K] {code: windows that can be expected to have shown it}, windows that were drawn).

    A clip has its share of the windows, and each of them shows its share of the clip; that a code comes more than once
    in a clip is left out. Codes of the first and last frames of clips are in fewer windows than that.
    """
    drawn, samples = _drawn(case), case.state.get("samples_seen")
    if drawn is None or not any(codes_K):
        return [dict.fromkeys(codes, 0.0) for codes in codes_K], int(samples or 0)
    train = case.patient.seen.read.train
    epochs = drawn / max(1, int(pack.clips.frames[case.patient.seen.splits[0]].sum()))
    holding = _Holding(codes_K)
    clipwise.read(pack, train, [holding])
    return [{code: epochs * clips for code, clips in counts.items()} for counts in holding.clips_K], int(samples or 0)


class _Holding:
    """In how many clips a code occurs, away from their ends."""

    def __init__(self, codes_K: list[list[int]]) -> None:
        self.clips_K = [dict.fromkeys(codes, 0) for codes in codes_K]

    def add(self, group: Group) -> None:
        for start, end in zip(group.starts[:-1], group.starts[1:], strict=True):
            edge = (end - start) // 8
            codes_TK: NDArray[np.uint16] = group.codes_NK[start + edge : end - edge]
            for book, counts in enumerate(self.clips_K):
                if counts:
                    for code in np.intersect1d(codes_TK[:, book], list(counts)).tolist():
                        counts[code] += 1

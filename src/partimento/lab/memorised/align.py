"""Local alignment of a sample with places of clips: what a copy with changed codes and small shifts still shows.

Smith and Waterman, "Identification of common molecular subsequences", J. Mol. Biol. 147 (1981), with linear gaps, on
frames of the first two books: a frame that informs and is met by an equal one scores MATCH; one that does not inform,
or agrees in the first book alone, scores nothing (a copy that went through audio keeps its first book best); a frame
met by another costs MISMATCH, and one that is left out, on either side, GAP. Only a band around a diagonal is looked at
(Chao, Pearson and Miller, "Aligning two sequences within a specified diagonal band", CABIOS 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from partimento.lab.memorised.frames import Hashes, symbols

MATCH, MISMATCH, GAP = 1, 1, 2
Scores = NDArray[np.signedinteger[Any]]
NOTHING = np.uint64(2**64 - 1)
"""The frame outside of a clip: no frame of two books of 16 bits is this number, or shares its first book."""
_SECOND = np.uint64(2**16)


class Place(NamedTuple):
    """A band to look at: diagonals `low` to `low` + width - 1, where frame i of the sample meets frame i + diagonal."""

    sample: int
    clip: int
    low: int


@dataclass(frozen=True)
class Aligned:
    """Frames sample_first..sample_last - 1 against clip_first..clip_last - 1; `score` = matches - MISMATCH * mismatches
    - GAP * gaps, `matches` counting frames that inform. `path` has one letter a step: "=" equal, "-" equal but nothing
    that informs, "~" equal in the first book alone, "x" another, "i" only in the sample, "d" only in the clip."""

    score: int
    matches: int
    mismatches: int
    gaps: int
    sample_first: int
    sample_last: int
    clip_first: int
    clip_last: int
    path: str


def heads(codes_NK: NDArray[np.uint16]) -> Hashes:
    """[N]: the first two books of each frame as one number (0 for a second book that is not there)."""
    if codes_NK.shape[1] == 1:
        return symbols(codes_NK, 1) * _SECOND
    return symbols(codes_NK, 2)


def scores(sample_CT: Hashes, informs_CT: NDArray[np.bool_], clip_CX: Hashes) -> Scores:
    """[C]: the best score of each of C bands. Row i of a band meets clip_CX[:, i : i + width], so
    X = T + width - 1; frames that are not there are NOTHING, and are not to inform."""
    C, T = sample_CT.shape
    width = clip_CX.shape[1] - T + 1
    before_CW: Scores = np.zeros((C, width), dtype=_dtype(T, width))
    best_C: Scores = np.zeros(C, dtype=before_CW.dtype)
    for row in range(T):
        before_CW = _row(sample_CT[:, row], informs_CT[:, row], clip_CX[:, row : row + width], before_CW)
        np.maximum(best_C, before_CW.max(axis=1), out=best_C)
    return np.asarray(best_C)


def _dtype(T: int, width: int) -> type[np.signedinteger[Any]]:
    """The quickest that holds the scores of T frames."""
    return np.int16 if MATCH * T + GAP * width < 2**15 else np.int32


def _row(sample_C: Hashes, informs_C: NDArray[np.bool_], clip_CW: Hashes, before_CW: Scores) -> Scores:
    """The next row of the table: the best score of what ends at each cell, at least 0."""
    kind = before_CW.dtype.type
    differs_CW = clip_CW ^ sample_C[:, None]
    gain_C1 = np.where(informs_C, kind(MATCH), kind(0))[:, None]
    step_CW: Scores = np.where(differs_CW == 0, gain_C1, np.where(differs_CW < _SECOND, kind(0), kind(-MISMATCH)))
    step_CW += before_CW
    np.maximum(step_CW[:, :-1], before_CW[:, 1:] - kind(GAP), out=step_CW[:, :-1])
    np.maximum(step_CW, 0, out=step_CW)
    # Frames of the clip that are left out: max over k <= j of (value k - GAP (j - k)), as one running maximum.
    ramp_W = np.arange(0, GAP * step_CW.shape[1], GAP, dtype=kind)
    step_CW += ramp_W
    np.maximum.accumulate(step_CW, axis=1, out=step_CW)
    step_CW -= ramp_W
    return step_CW


def trace(
    sample_CT: Hashes, informs_CT: NDArray[np.bool_], clip_CX: Hashes, low_C: Sequence[int]
) -> list[Aligned | None]:
    """The best local alignment within each band, None where nothing scores; arrays as in `scores`, `low_C` the
    diagonals of the bands' first frames. Of equally good ones, the first that ends. Keeps C x T x width numbers."""
    C, T = sample_CT.shape
    width = clip_CX.shape[1] - T + 1
    table_TCW = np.zeros((T + 1, C, width), dtype=_dtype(T, width))
    for row in range(T):
        clip_CW = clip_CX[:, row : row + width]
        table_TCW[row + 1] = _row(sample_CT[:, row], informs_CT[:, row], clip_CW, table_TCW[row])
    return [
        _path(np.ascontiguousarray(table_TCW[:, one]), sample_CT[one], informs_CT[one], clip_CX[one], low_C[one])
        for one in range(C)
    ]


def _path(table_TW: Scores, sample_T: Hashes, informs_T: NDArray[np.bool_], clip_X: Hashes, low: int) -> Aligned | None:
    top = int(table_TW.max())
    if not top:
        return None
    row, column = divmod(int(np.argmax(table_TW)), table_TW.shape[1])
    last, steps = (row, row + column), []
    while table_TW[row, column] > 0:
        here, at = int(table_TW[row, column]), row - 1
        letter = _letter(int(sample_T[at] ^ clip_X[at + column]), bool(informs_T[at]))
        if here == int(table_TW[row - 1, column]) + _WORTH[letter]:
            steps.append(letter)
            row -= 1
        elif column + 1 < table_TW.shape[1] and here == int(table_TW[row - 1, column + 1]) - GAP:
            steps.append("i")
            row, column = row - 1, column + 1
        else:
            steps.append("d")
            column -= 1
    path = "".join(reversed(steps))
    return Aligned(
        score=top,
        matches=path.count("="),
        mismatches=path.count("x"),
        gaps=path.count("i") + path.count("d"),
        sample_first=row,
        sample_last=last[0],
        clip_first=row + column + low,
        clip_last=last[1] + low,
        path=path,
    )


_WORTH = {"=": MATCH, "-": 0, "~": 0, "x": -MISMATCH}


def _letter(differs: int, informs: bool) -> str:
    if differs == 0:
        return "=" if informs else "-"
    return "~" if differs < int(_SECOND) else "x"

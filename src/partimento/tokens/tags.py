"""Tags: clean names, and rows of a multi-hot condition."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from partimento.errors import PartimentoError


def clean(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags without outer and doubled blanks, without empty ones and repetitions, in their order. Case is kept
    ("B major", "b minor")."""
    return tuple(dict.fromkeys(name for tag in tags if (name := " ".join(tag.split()))))


def multi_hot(tags: Iterable[str], vocabulary: Sequence[str]) -> NDArray[np.float32]:
    """[G] float32 of 0 and 1. Tags outside of the vocabulary (of held-out clips) have no column and are left out."""
    known = {name: column for column, name in enumerate(vocabulary)}
    row_G = np.zeros(len(vocabulary), dtype=np.float32)
    for tag in tags:
        if tag in known:
            row_G[known[tag]] = 1
    return row_G


def require(tags: Iterable[str], vocabulary: Sequence[str]) -> tuple[str, ...]:
    """`clean(tags)`, all of which the vocabulary has. Raises TOKEN003, with the nearest names, where it has not."""
    names = clean(tags)
    for name in names:
        if name in vocabulary:
            continue
        lowered = {known.lower(): known for known in reversed(vocabulary)}
        near = [lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
        contained = [known for known in vocabulary if name.lower() in known.lower()]
        hint = list(dict.fromkeys(near + contained))[:3]
        raise PartimentoError(
            "TOKEN003",
            f"unknown tag {name!r}" + (f"; did you mean {' or '.join(map(repr, hint))}?" if hint else ""),
            why=f"the model was trained with {len(vocabulary)} tags"
            if vocabulary
            else "the model was trained without tags",
            next=f"choose from: {', '.join(vocabulary[:20])}" + (", ..." if len(vocabulary) > 20 else "")
            if vocabulary
            else "leave the tags out",
        )
    return names

"""Rows of the tables of codes: the input embeddings, and the heads that give the logits.

K books lie in one tensor, `rows` (or `outputs`) of each after those of the book before. The last rows of an embedding
belong to EOS, PAD and BOS; they are no codes. Shapes: K books, V codes a book, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from partimento.keyed import torch_generator

ALIKE = 1e-3
"""Rows that differ by less than this share of their length are one row twice."""
LOOKS = 8
"""Random directions along which rows are compared first."""
LOUD = 10.0
"""A row that is this many times as long as the middle one of its book stands out."""


@dataclass(frozen=True)
class Layout:
    """How a table is divided: `books` of `rows`, of which the first `codes` are codes."""

    what: str
    books: int
    rows: int
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Books:
    """By book: codes whose second moment is zero (None without moments), groups of rows that are the same, codes whose
    rows stand out by their length (with the factor)."""

    layout: Layout
    dead: list[list[int]] | None
    alike: list[list[list[int]]]
    loud: list[dict[int, float]]
    untouched_rms: float | None
    """Root mean square of the rows that no step has touched, specials among them: they are as they were drawn."""
    length_KV: list[list[float]]
    """Of the row of each code."""


def layouts(description: Mapping[str, Any]) -> dict[str, Layout]:
    """{end of a tensor's name: layout} of what `description` (state.json) says of a code decoder; {} where it says
    nothing. A decoder stands alone (rvq), or in a "model" (dia) or "mixture" (mot)."""
    whole = description.get("mixture") or description.get("model")
    shape = (whole if isinstance(whole, Mapping) else description).get("decoder")
    spec = description.get("spec")
    if not isinstance(shape, Mapping) or not isinstance(spec, Mapping):
        return {}
    books, rows, outputs = shape.get("codebooks"), shape.get("rows"), shape.get("outputs")
    books = 1 if shape.get("vocabulary") == "shared" else books
    sizes = spec.get("cardinalities")
    if not isinstance(books, int) or not isinstance(rows, int) or not isinstance(outputs, int):
        return {}
    if not isinstance(sizes, list) or not sizes or not all(isinstance(size, int) for size in sizes):
        return {}
    # One vocabulary for all books holds the codes of the largest.
    codes = tuple(sizes) if len(sizes) == books else (max(sizes),) * books
    return {
        "embedding": Layout("input rows", books, rows, codes),
        "head.weight": Layout("output rows", books, outputs, codes),
    }


def layout_of(name: str, shape: tuple[int, ...], known: Mapping[str, Layout]) -> Layout | None:
    """That of a tensor, if it is one of the decoder's tables (an encoder's is not divided into books)."""
    for end, layout in known.items():
        if (name == end or name.endswith(f".{end}")) and len(shape) == 2 and "encoder" not in name.split("."):
            return layout if shape[0] == layout.books * layout.rows else None
    return None


@torch.no_grad()
def read(weight_RD: Tensor, square_RD: Tensor | None, layout: Layout) -> Books:
    """`square_RD` is exp_avg_sq, or the momentum: zero in a row that never had a gradient."""
    weight = weight_RD.float()
    length_R = weight.norm(dim=1)
    touched_R = None if square_RD is None else square_RD.ne(0).any(dim=1)
    dead: list[list[int]] = []
    alike: list[list[list[int]]] = []
    loud: list[dict[int, float]] = []
    length_KV: list[list[float]] = []
    for book in range(layout.books):
        codes = slice(book * layout.rows, book * layout.rows + layout.codes[book])
        length_V = length_R[codes]
        if touched_R is not None:
            dead.append((~touched_R[codes]).nonzero().flatten().tolist())
        alike.append(_alike(weight[codes], length_V))
        length_KV.append(length_V.tolist())
        middle = float(length_V.median())
        out = (length_V > LOUD * middle).nonzero().flatten().tolist() if middle else []
        loud.append({code: float(length_V[code]) / middle for code in out})
    rms = None
    if touched_R is not None and int((~touched_R).sum()):
        rms = float(weight[~touched_R].square().mean().sqrt())
    return Books(layout, dead if touched_R is not None else None, alike, loud, rms, length_KV)


def _alike(weight_VD: Tensor, length_V: Tensor) -> list[list[int]]:
    """Groups of rows that are the same, ascending. Rows of zeros are none.

    Equal rows are neighbours when sorted by their length; each is compared with the next four, and whole only where
    their products with a few random directions agree: |<r, a - b>| <= |r| |a - b|.
    """
    order_V = length_V.argsort(stable=True)
    group = list(range(len(length_V)))
    look_DP = torch.randn(weight_VD.shape[1], LOOKS, generator=torch_generator(0, "rows"))
    look_VP = (weight_VD @ (look_DP / look_DP.norm(dim=0)))[order_V]
    sorted_V = length_V[order_V]
    for step in range(1, min(5, len(order_V))):
        most_V = ALIKE * sorted_V[step:]
        near_V = ((look_VP[step:] - look_VP[:-step]).abs() <= 1.01 * most_V[:, None]).all(dim=1)
        for place in (near_V & (sorted_V[:-step] > 0)).nonzero().flatten().tolist():
            one, other = int(order_V[place]), int(order_V[place + step])
            if float((weight_VD[other] - weight_VD[one]).norm()) <= float(most_V[place]):
                old, new = group[other], group[one]
                group = [new if of == old else of for of in group]
    members: dict[int, list[int]] = {}
    for code, of in enumerate(group):
        members.setdefault(of, []).append(code)
    return sorted(sorted(codes) for codes in members.values() if len(codes) > 1)

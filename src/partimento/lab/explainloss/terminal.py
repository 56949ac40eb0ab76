"""An explanation on the terminal: the verdict first, then each part as prose and a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from partimento.lab.explainloss.explained import Explained, Part, text

WIDTH = 100


def terminal(found: Explained) -> str:
    step = "no step yet" if found.step is None else f"step {found.step:,}"
    blocks = [f"{found.run} ({found.family}, {step})", "\n".join(_wrapped(line) for line in found.verdict)]
    blocks += [_part(part) for part in found.parts]
    if found.missing:
        blocks.append("\n".join(["NOT RECORDED", *(_wrapped(line, "- ", "  ") for line in found.missing)]))
    return "\n\n".join(blocks)


def _part(part: Part) -> str:
    blocks = [part.title.upper(), *(_wrapped(paragraph) for paragraph in part.prose)]
    if part.rows:
        blocks.append(_table(part.head, [[text(cell) for cell in row] for row in part.rows]))
    return "\n".join(blocks)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _wrapped(line: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(line, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

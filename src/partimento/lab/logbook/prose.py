"""Markdown from what runs say: escaped, so that a name with a star in it stays a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")


def plain(value: Any) -> str:
    """Text in a line: every sign is itself, on one line."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return _SPECIAL.sub(r"\\\1", text)


def code(value: Any) -> str:
    """A short code span, also inside of a table."""
    text = re.sub(r"\s+", " ", str(value)).strip().replace("|", "¦")
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}" if text else "–"


def fenced(text: str) -> str:
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}\n{text}\n{fence}"


def quoted(text: str) -> str:
    return "\n".join(f"> {plain(line)}".rstrip() for line in text.splitlines())


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Cells are Markdown already; columns of numbers stand to the `right`."""
    rules = ["---:" if column in right else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rules, *rows])


def setting(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return code(text if len(text) <= 60 else text[:57] + "...")


def figure(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def safe(body: str) -> str:
    """Without anything that a page could take for one of its marks."""
    return body.replace("<!--", "&lt;!--")

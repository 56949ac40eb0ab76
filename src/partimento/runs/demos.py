"""`demos/step-N/demos.json`: what a model played at a step. Written by training, read for the log and by the lab.

schema            2; older ones have none: "tags" in place of "words", "repetition" in place of "repetition_K"
step              optimizer steps that the weights have seen
demos             the items; each has "file" and "kind" (original, reconstruction, played, continuation), what was
                  played has weights, temperature, guidance, seed, words {tags, text}, prompt, metrics
original_missing, continuation_missing
                  why there is none, or null
data              the figures of held-out windows of the same length: the yardstick
figures           the figures of what was played, for each of (weights, temperature, guidance, told)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError

SCHEMA = 2
NAME = "demos.json"


@dataclass(frozen=True)
class Sheet:
    """The content of one demos.json. A number that is not finite is None here, as it should have been there."""

    step: int | None
    items: list[dict[str, Any]]
    original_missing: str | None
    continuation_missing: str | None
    data: dict[str, Any] | None
    figures: list[dict[str, Any]]

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(kind, values) of what the log of the run keeps of it."""
        if self.data is not None:
            yield "demo_data", self.data
        for row in self.figures:
            yield "demo_figures", row


def read(folder: Path) -> Sheet:
    """The sheet of the demos in `folder`. Raises TRAIN070 where there is none, or it is not one."""
    path = Path(folder) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=lambda _: None)
        items, data, figures = content["demos"], content.get("data"), content.get("figures", [])
        step, missing = content.get("step"), [content.get(f"{kind}_missing") for kind in ("original", "continuation")]
        if not isinstance(items, list) or not isinstance(figures, list):
            raise ValueError("its items are no list")
        if not all(isinstance(item, dict) and isinstance(item["file"], str) for item in items):
            raise ValueError("an item is not an object with a file")
        if not (data is None or isinstance(data, dict)) or not all(isinstance(row, dict) for row in figures):
            raise ValueError("its figures are not objects")
    except OSError as err:
        raise _unreadable(path, "it is missing" if isinstance(err, FileNotFoundError) else str(err)) from err
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise _unreadable(path, f"it is not what training writes: {err!r}") from err
    original, continuation = (None if why is None else str(why) for why in missing)
    return Sheet(step if isinstance(step, int) else None, items, original, continuation, data, figures)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _unreadable(path: Path, why: str) -> PartimentoError:
    return PartimentoError(
        "TRAIN070",
        f"{path.parent.name}/{NAME} cannot be read",
        where=str(path),
        why=why,
        next=f"remove the folder {path.parent}: the demos of the last step are played again when the run goes on",
    )

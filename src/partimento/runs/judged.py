"""`validation/`: what every held-out item came to at each validation, so that runs can be compared item by item.

    RUN/validation/items-3f2a91c0.json   who was judged: clip, source, first row, size; named by its own hash
    RUN/validation/step-000000400.json   step, weights, the file above, and for each figure a value an item

The file of the items is written once, a step adds some ten bytes for each figure and item. An item's value is a sum
over its `size` (codes; 1 for sound), so a mean over items is sum(values) / sum(sizes) * scale in the figure's unit.
Only the weights by which checkpoints are compared are kept (the averaged ones, where there are any).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError

SCHEMA = 1
FOLDER = "validation"
DIGITS = 7  # of float32 there are no more
_ITEMS = re.compile(r"items-[0-9a-f]{8}\.json")
_STEP = re.compile(r"step-(\d{9})\.json")


@dataclass(frozen=True)
class Items:
    """`values` of each figure, one an item, None where it is undefined; `scale` turns value / size into its unit."""

    clips: Sequence[str]
    sources: Sequence[str]
    starts: Sequence[float]
    sizes: Sequence[float]
    values: Mapping[str, Sequence[float | None]]
    scale: Mapping[str, float]

    def who(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "clip": list(self.clips),
            "source": list(self.sources),
            "start": list(self.starts),
            "size": list(self.sizes),
        }


@dataclass(frozen=True)
class Judged:
    """One validation as it was kept. `identity` is the hash of who was judged: equal for equal items."""

    step: int
    weights: str
    identity: str
    items: Items


def write(run: Path, step: int, weights: str, items: Items) -> Path:
    """Keep one validation of the run at `run`; the same step again replaces it. Raises SYS002."""
    folder = Path(run) / FOLDER
    with commit.disk_errors(folder):
        folder.mkdir(exist_ok=True)
    who = items.who()
    name = f"items-{hashlib.sha256(commit.record_bytes(who)).hexdigest()[:8]}.json"
    if not (folder / name).exists():
        commit.record(folder / name, who)
    path = folder / f"step-{step:09d}.json"
    values = {figure: [_rounded(value) for value in row] for figure, row in items.values.items()}
    content = {"schema": SCHEMA, "step": step, "weights": weights, "items": name, "scale": dict(items.scale)}
    commit.text(path, json.dumps({**content, "values": values}, allow_nan=False, separators=(",", ":")) + "\n")
    return path


def steps(run: Path) -> dict[int, Path]:
    """Step -> file of the validations that were kept, in order; {} where there are none."""
    found = {
        int(match[1]): path
        for path in (Path(run) / FOLDER).glob("step-*.json")
        if (match := _STEP.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def read(path: Path) -> Judged:
    """The validation in the file at `path`. Raises RUN006 where it, or what it names, is not what training writes."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name = str(content["items"])
        if not _ITEMS.fullmatch(name):
            raise ValueError(f"it names the items {name!r}")
        raw = (path.parent / name).read_bytes()
        who = json.loads(raw)
        if content["schema"] != SCHEMA or who["schema"] != SCHEMA:
            raise ValueError("it is of another version")
        digest = hashlib.sha256(commit.record_bytes(who)).hexdigest()
        if name != f"items-{digest[:8]}.json":
            raise ValueError(f"{name} does not match its hash")
        values = {str(figure): [_number(value) for value in row] for figure, row in content["values"].items()}
        columns = [who["clip"], who["source"], who["start"], who["size"], *values.values()]
        if len({len(column) for column in columns}) != 1:
            raise ValueError("its columns have different lengths")
        if not all(isinstance(size, int | float) and size >= 0 for size in who["size"]):
            raise ValueError("a size is not a number")
        scale = {str(figure): float(content["scale"][figure]) for figure in values}
        clips, sources = [str(clip) for clip in who["clip"]], [str(source) for source in who["source"]]
        items = Items(clips, sources, who["start"], who["size"], values, scale)
        return Judged(int(content["step"]), str(content["weights"]), digest, items)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise PartimentoError(
            "RUN006",
            "the kept figures of a validation cannot be read",
            where=str(path),
            why=f"{type(err).__name__}: {err}",
            next=f"remove {path}: the rest of the run does not need it",
        ) from err


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a value is {value!r}")
    return float(value)


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None

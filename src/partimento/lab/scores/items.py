"""What is scored: the files below folders, or the newest demos of a run, each with what it was asked to be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento.audio import files
from partimento.codecs.labels import Labels
from partimento.errors import PartimentoError
from partimento.lab.scores.following import Asked, of_sample, of_words
from partimento.runs import demos
from partimento.runs.run import Run

_STEP = re.compile(r"step-\d+")
GROUPED = ("played", "output")  # kinds of demos that a model made of nothing but words or noise, or restored


@dataclass(frozen=True)
class Item:
    """`group` is the set that it belongs to, None for what is no part of one (a recording beside a demo). `asked` is
    None where it is not known."""

    path: Path
    name: str
    group: str | None = ""
    asked: Asked | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


def of_paths(places: Sequence[Path]) -> list[Item]:
    """Files in the order of `audio.files.discover`. Raises as that does."""
    roots = [place if place.is_dir() else place.parent for place in places]
    tables = {root: Labels(root) for root in roots}
    items = []
    for path in files.discover(places):
        asked, missing = of_sample(path), {}
        if asked is None:
            root = max((root for root in roots if root in path.parents), key=lambda root: len(root.parts))
            try:
                found = tables[root].look(path)[1]
            except PartimentoError as err:
                missing["asked"] = f"{err.code} {err.message}: {err.why}"
            else:
                words = found.get("tags", []), str(found.get("caption") or "")
                asked = Asked.of(*words) if any(words) else None
        items.append(Item(path, str(path), asked=asked, missing=missing))
    return items


def of_run(run: Run) -> tuple[list[Item], str | None]:
    """The demos of the newest step that has any, a group for each way of playing; and why there are none."""
    steps = sorted(path for path in run.demos_path.glob("step-*") if _STEP.fullmatch(path.name))
    for folder in reversed(steps):
        sheet = demos.read(folder)
        items = [_demo(folder, entry) for entry in sheet.items if (folder / entry["file"]).is_file()]
        if items:
            return items, None
    return [], "the run has no demos yet"


def _demo(folder: Path, entry: Mapping[str, Any]) -> Item:
    words = entry.get("words")
    kind = str(entry.get("kind", "played"))
    asked = of_words(words) if isinstance(words, Mapping) else None
    group = f"{folder.name}, {_way(entry)}" if kind in GROUPED else None
    return Item(folder / entry["file"], f"{folder.name}/{entry['file']}", group, asked)


def _way(entry: Mapping[str, Any]) -> str:
    """Demos that were played in one way belong together; what is not recorded is not told."""
    parts = [str(entry["weights"])] if entry.get("weights") else []
    parts += [f"{name} {entry[name]:g}" for name in ("temperature", "guidance") if isinstance(entry.get(name), float)]
    return ", ".join(parts) or str(entry.get("kind", "played"))

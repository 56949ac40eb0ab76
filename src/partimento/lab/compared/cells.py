"""Runs read from their folders, and grouped into cells: runs of one cell differ in the seed and in nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento.config import parse
from partimento.errors import PartimentoError
from partimento.lab.compared.figures import Figures, figures
from partimento.lab.verdict import SOUND
from partimento.runs import judged
from partimento.runs.events import read_events
from partimento.runs.judged import Judged
from partimento.runs.run import Run

SEED = "train.seed"
# What two runs may differ in and still be one experiment: where they ran, what they kept, where their data lay.
APART = {SEED, "train.device", "train.log_every", "train.save_every", "train.keep", "train.archive_every"}
APART |= {"train.keep_archives", "train.save_sharded", "data.pack", "data.codec", "data.recordings"}


@dataclass(frozen=True)
class One:
    """One run: `settings` are its configuration by dotted keys, `items` what its last validation came to, clip by clip,
    or None, and then `unpaired` says why."""

    run: Run
    settings: dict[str, Any]
    figures: Figures
    items: Judged | None
    unpaired: str | None

    @property
    def seed(self) -> int:
        return int(self.settings[SEED])

    @property
    def identity(self) -> dict[str, Any]:
        found = self.run.record.get("identity")
        return found if isinstance(found, dict) else {}


@dataclass
class Cell:
    """`changes` are the settings in which it differs from another cell of the comparison; `runs` by seed."""

    changes: dict[str, Any]
    runs: dict[int, One] = field(default_factory=dict)
    name: str = ""

    @property
    def first(self) -> One:
        return self.runs[min(self.runs)]

    def figure(self, name: str) -> list[float]:
        """The known values of a figure, in order of the seeds."""
        found = (self.runs[seed].figures.values.get(name) for seed in sorted(self.runs))
        return [value for value in found if value is not None]


def read_runs(paths: Sequence[str | Path], note: Callable[[str], None] = lambda text: None) -> list[One]:
    """The runs at `paths`; a folder of runs (an ablation) stands for all of its runs.

    What cannot be read within such a folder is noted and left out. Raises RUN001 and RUN002 for a run that was named,
    LAB070 where none of a folder's is one.
    """
    found: dict[Path, One] = {}
    for path in map(Path, paths):
        if (path / "run.json").exists() or not path.is_dir():
            found.setdefault(path.resolve(), read_run(Run.open(path), note))
            continue
        inside = sorted(place.parent for place in path.glob("*/run.json"))
        if not inside:
            raise PartimentoError(
                "LAB070", f"{path} is no run, and holds none", why="a run has a run.json", next=f"ls {path}"
            )
        for place in inside:
            try:
                found.setdefault(place.resolve(), read_run(Run.open(place), note))
            except PartimentoError as err:
                note(f"{place.name} is left out: {err.message} ({err.code})")
    return list(found.values())


def read_run(run: Run, note: Callable[[str], None] = lambda text: None) -> One:
    """Its files, without its weights."""
    told = figures(run, read_events(run.events_path))
    for text in told.notes:
        note(text)
    items: Judged | None = None
    why: str | None = None
    kept = judged.steps(run.path)
    if told.step is None:
        why = "no validation was logged"
    elif told.step not in kept:
        why = "the figures of single clips were not kept"
    else:
        try:
            items = judged.read(kept[told.step])
        except PartimentoError as err:
            why = f"{err.message} ({err.code})"
            note(f"{run.id}: {why}")
        if items is not None and items.weights != told.weights:
            why = f"single clips were judged with the {items.weights} weights"
            items = None
    return One(run, settings(run), told, items, why)


def settings(run: Run) -> dict[str, Any]:
    """The configuration by dotted keys, with today's defaults where an older version had no such key."""
    tree = run.record["config"]
    with contextlib.suppress(PartimentoError):  # of a newer version, or with other keys: as it was written
        tree = parse(tree, name=str(run.path / "run.json")).model_dump(mode="json")
    found = dict(_dotted(tree))
    found.setdefault(SEED, 0)
    return found


def _dotted(tree: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def cells(runs: Sequence[One], note: Callable[[str], None] = lambda text: None) -> list[Cell]:
    """Group the runs, in the order in which they came. Of two runs of one cell and seed the one that got further
    counts, and the other is noted. Raises LAB071 where the runs are judged by figures that cannot be compared."""
    if len({one.figures.score for one in runs}) > 1 or len({_kind(one) for one in runs}) > 1:
        told = ", ".join(f"{one.run.id} ({one.run.record['family']})" for one in runs[:6])
        raise PartimentoError(
            "LAB071",
            "these runs are judged by different figures",
            where=told,
            why="models of codes are judged in bits per second, restorers and codecs by distances of their own",
            next="compare runs of one kind",
        )
    keys = _varied(runs)
    found: dict[str, Cell] = {}
    for one in runs:
        changes = {key: one.settings.get(key) for key in keys}
        changes |= _data(one, runs)
        cell = found.setdefault(json.dumps(changes, sort_keys=True), Cell(changes))
        other = cell.runs.get(one.seed)
        if other is not None:
            keep, drop = (one, other) if (one.figures.step or 0) > (other.figures.step or 0) else (other, one)
            note(f"{drop.run.id} is left out: {keep.run.id} is the same with the same seed")
            one = keep
        cell.runs[one.seed] = one
    for cell in found.values():
        cell.name = _name(cell.changes) or cell.first.run.id
    return list(found.values())


def _kind(one: One) -> str:
    family = str(one.run.record["family"])
    return family if family in SOUND else "codes"


def _varied(runs: Sequence[One]) -> list[str]:
    every = sorted({key for one in runs for key in one.settings} - APART)
    return [key for key in every if len({json.dumps(one.settings.get(key)) for one in runs}) > 1]


def _data(one: One, runs: Sequence[One]) -> dict[str, Any]:
    """The data as one more setting, where it is not the same for all; named by the folder."""
    if len({json.dumps(other.identity, sort_keys=True) for other in runs}) == 1:
        return {}
    own = [_described(other) for other in runs]
    mine = _described(one)
    different = [place for place in range(len(mine)) if len({other[place] for other in own}) > 1]
    enough = next(n for n in range(1, len(different) + 1) if _apart(own, runs, different[:n]))
    return {"data": " ".join(mine[place] for place in different[:enough])}


def _apart(described: Sequence[tuple[str, ...]], runs: Sequence[One], places: Sequence[int]) -> bool:
    """Whether these parts of the description tell all data apart."""
    named = {tuple(one[place] for place in places) for one in described}
    return len(named) == len({json.dumps(one.identity, sort_keys=True) for one in runs})


def _described(one: One) -> tuple[str, ...]:
    """What names data, from what is read best to what is surest."""
    folder = Path(str(one.settings.get("data.pack") or one.settings.get("data.pairs") or "")).name
    codec, fingerprint = (str(one.identity.get(key, "")) for key in ("codec", "fingerprint"))
    whole = json.dumps(one.identity, sort_keys=True).encode()
    return folder, codec, fingerprint[:8], hashlib.sha256(whole).hexdigest()[:8]


def _name(changes: Mapping[str, Any]) -> str:
    """Each change by the last part of its key, or all of it where two keys end alike or the end says nothing."""
    ends = [key.rpartition(".")[2] for key in changes]
    plain = [ends.count(end) == 1 and end not in ("name", "start") for end in ends]
    names = (end if enough else key for key, end, enough in zip(changes, ends, plain, strict=True))
    return ", ".join(f"{name} {told(value)}" for name, value in zip(names, changes.values(), strict=True))


def told(value: Any) -> str:
    """A setting as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "(" + ", ".join(map(told, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)

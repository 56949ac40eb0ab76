"""How far each run of an ablation is, from its folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab.ablation.grid import Planned
from partimento.runs.events import read_events
from partimento.runs.run import Run

Status = Literal["waiting", "interrupted", "finished", "failed"]
DONE = ("finished", "max_minutes", "stopped early")
RECORD = "ablation.json"


def status(root: Path, planned: Planned) -> tuple[Status, str | None]:
    """Where the run is, and why it ended if it did.

    "finished" ones are not repeated; "interrupted" ones (a kill leaves no end, either) and "failed" ones go on. Raises
    LAB076 where the folder holds a run of another configuration under this name.
    """
    path = root / planned.name
    if not (path / "run.json").exists():
        return "waiting", None
    run = Run.open(path)
    if changed := different(run.record["config"], planned.config.model_dump(mode="json")):
        raise PartimentoError(
            "LAB076",
            f"{planned.name} was trained with other settings",
            where=str(path),
            why=f"{', '.join(changed[:4])} differ from what is asked for now",
            next="give another folder: --to DIR",
        )
    ended = None
    for event in read_events(run.events_path):
        if event["kind"] == "end":
            ended = str(event.get("reason"))
        elif event["kind"] in ("start", "resume"):
            ended = None
    if ended in DONE:
        return "finished", ended
    return ("interrupted", ended) if ended in (None, "interrupted") else ("failed", ended)


def different(one: Any, other: Any, before: str = "") -> list[str]:
    """Dotted keys in which two configurations differ; where the device is, is no difference of the experiment."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return [
            found
            for key in keys
            if f"{before}{key}" not in ("train.device", "train.log_every", "train.save_every")
            for found in different(one.get(key), other.get(key), f"{before}{key}.")
        ]
    return [] if one == other else [before.rstrip(".")]


def keep(root: Path, planned: Sequence[Planned], facts: dict[str, Any]) -> None:
    """Write what was asked for beside the runs, and each run's configuration for the process that trains it."""
    with commit.disk_errors(root):
        (root / "configs").mkdir(parents=True, exist_ok=True)
        (root / "logs").mkdir(exist_ok=True)
    for one in planned:
        commit.record(config_path(root, one), one.config.model_dump(mode="json"))
    runs = [{"run": one.name, "changes": one.changes, "seed": one.seed} for one in planned]
    commit.record(root / RECORD, {"schema": 1, **facts, "runs": runs})


def config_path(root: Path, planned: Planned) -> Path:
    return root / "configs" / f"{planned.name}.json"

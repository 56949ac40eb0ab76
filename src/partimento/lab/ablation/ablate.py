"""`ablate`: a grid of changes times seeds, from the plan to the comparison.

DIR/ablation.json            what was asked for, and which run is which change
DIR/configs/NAME.json        the whole configuration of each run
DIR/NAME/                    the run, as `train` leaves it
DIR/logs/NAME.log            what its process printed
DIR/compare.html .csv .json  the comparison of what is finished
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.lab.ablation import state
from partimento.lab.ablation.grid import Planned, budget_of, grid
from partimento.lab.ablation.local import Local
from partimento.lab.compared.compare import Comparison, compare
from partimento.lab.compared.document import written_before
from partimento.lab.plan import plan
from partimento.lab.plan.cost import Hours
from partimento.progress import Progress, Quiet
from partimento.runs.events import read_events


@dataclass(frozen=True)
class CellPlan:
    """What the runs of one cell will need. `hours` by device; `here` is how long a finished run of it took, or None."""

    changes: dict[str, Any]
    runs: int
    parameters: int
    disk_bytes: int
    hours: list[Hours]
    here: float | None


@dataclass(frozen=True)
class Ablation:
    """`status` by the names of the runs, `failed` why, `plans` a cell each, `jobs` those in a queue, by run."""

    root: Path
    planned: list[Planned]
    status: dict[str, str]
    plans: list[CellPlan]
    failed: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "runs": [
                {"run": one.name, "changes": one.changes, "seed": one.seed, "status": self.status[one.name]}
                for one in self.planned
            ],
            "plans": [
                {
                    "changes": one.changes,
                    "runs": one.runs,
                    "parameters": one.parameters,
                    "disk_bytes": one.disk_bytes,
                    "hours": {hours.device: hours.hours for hours in one.hours},
                    "hours_here": one.here,
                }
                for one in self.plans
            ],
            "failed": self.failed,
            "jobs": self.jobs,
            "comparison": self.comparison.to_json() if self.comparison is not None else None,
        }


def ablate(
    config: str | Path,
    changes: Sequence[str] = (),
    *,
    vary: Sequence[str],
    seeds: int = 3,
    budget: str | None = None,
    hypothesis: str | None = None,
    to: str | Path | None = None,
    jobs: int | None = None,
    submit: str | None = None,
    dry_run: bool = False,
    docs: str | Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    **queue: Any,
) -> Ablation:
    """Train every combination of what varies (`vary`, "section.key=a,b,c") with seeds 0, 1, ..., and compare them.

    `changes` hold for all; `hypothesis`, what is expected, goes into the log of every run. The folder `to`
    (ablations/NAME of the configuration) keeps everything: finished runs are not repeated, interrupted and failed ones
    go on, more values or seeds add to it. `jobs` runs at a time, each a process: by default one for each GPU, or one.
    `submit` "slurm" (or "local") puts what is not finished into a queue as an array, and returns; `queue` are options
    of `training.slurm.submit_all`. With `dry_run` nothing is written or trained.

    One failed run does not stop the others; it is in `failed`. Raises LAB074 (what varies), LAB075 (budget), LAB076
    (the folder holds runs of other settings), LAB077 (no run finished, and all failed), LAB079 (`docs` is a page of
    somebody's own), SYS003 (stopped; the same command goes on), what `load` and `plan` raise, and with `submit`
    TRAIN036 and TRAIN037.
    """
    progress = progress or Quiet()
    if docs is not None:
        written_before(Path(docs))  # not hours later
    root = Path(to) if to is not None else Path("ablations") / Path(config).stem
    planned = grid(config, vary, range(seeds), changes, budget_of(budget))
    where: dict[str, str] = {one.name: state.status(root, one)[0] for one in planned}
    progress.stage("plan", f"{len(planned)} runs: {_counted(where)}")
    plans = _plans(root, planned, where)
    made = Ablation(root, planned, dict(where), plans)
    if dry_run:
        return made
    asked = {"config": str(config), "changes": list(changes), "vary": list(vary), "seeds": seeds, "budget": budget}
    asked |= {"hypothesis": hypothesis} if hypothesis is not None else {}
    state.keep(root, planned, asked)
    left = [one for one in planned if where[one.name] != "finished"]
    if submit is not None and left:
        made.jobs.update(_submitted(root, left, submit, hypothesis, **queue))
        return made
    if left:
        _train(made, left, jobs, hypothesis, progress)
    made.status.update({one.name: state.status(root, one)[0] for one in planned})
    finished = [one for one in planned if made.status[one.name] == "finished"]
    if not finished:
        first = next(iter(made.failed.items()), ("", "no run came to its end"))
        raise PartimentoError(
            "LAB077",
            f"none of {len(planned)} runs is finished",
            where=str(root / "logs"),
            why=f"{first[0]}: {first[1]}",
            next="run the same command again when the cause is gone; the runs go on",
        )
    if len(finished) < 2:
        return made
    found = compare(
        [root / one.name for one in finished],
        to=root / "compare.html",
        csv=root / "compare.csv",
        docs=docs,
        command=command,
        progress=progress,
    )
    commit.record(root / "compare.json", json.loads(json.dumps(found.to_json(), default=str)))
    return Ablation(root, planned, made.status, plans, made.failed, {}, found)


def _counted(where: dict[str, str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(Counter(where.values()).items()))


def _plans(root: Path, planned: Sequence[Planned], where: dict[str, str]) -> list[CellPlan]:
    """By `partimento plan`, of the first run of each cell; what finished runs of it took on this machine, too."""
    cells: dict[str, list[Planned]] = {}
    for one in planned:
        cells.setdefault(json.dumps(one.changes, sort_keys=True), []).append(one)
    found = []
    for runs in cells.values():
        need = plan(runs[0].config)
        spent = [_hours(root / one.name) for one in runs if where[one.name] == "finished"]
        here = sum(spent) / len(spent) if spent else None
        found.append(CellPlan(runs[0].changes, len(runs), need.parameters, need.disk_bytes, need.hours, here))
    return found


def _hours(run: Path) -> float:
    """Between neighbouring events of one process."""
    spent, before = 0.0, None
    for event in read_events(run / "events.jsonl"):
        if event.get("time") is None:
            continue
        if before is not None and event["kind"] not in ("start", "resume"):
            spent += max(0.0, event["time"] - before)
        before = event["time"]
    return spent / 3600


def arguments(root: Path, one: Planned, hypothesis: str | None = None) -> list[str]:
    """`partimento train` of a planned run."""
    argv = ["train", str(state.config_path(root, one)), "--run", one.name, "--runs", str(root), "--quiet"]
    return argv + (["--hypothesis", hypothesis] if hypothesis is not None else [])


def _train(
    made: Ablation, left: Sequence[Planned], jobs: int | None, hypothesis: str | None, progress: Progress
) -> None:
    gpus = _gpus(left[0].config.train.device)
    number = min(jobs or len(gpus) or 1, len(left))
    done, began = 0, time.monotonic()
    how = f"{number} at a time" + (f" on {len(gpus)} GPUs" if gpus else "")
    progress.stage("train", f"{len(left)} runs, {how}; Ctrl-C saves them, the same command goes on")

    def told(one: Planned, error: str | None) -> None:
        nonlocal done
        done += 1
        if error is not None:
            progress.note(f"{one.name} failed: {error}; the others go on")
        rest = (time.monotonic() - began) / done * (len(left) - done)
        progress.update(done, len(left), run=one.name, eta_seconds=round(rest))

    local = Local(made.root, number, gpus, told=told, note=progress.note)
    local.all(left, lambda one: arguments(made.root, one, hypothesis))
    made.failed.update(local.failed)


def _gpus(device: str) -> list[str]:
    """The GPUs that a training here would use, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def _submitted(
    root: Path, left: Sequence[Planned], cluster: str, hypothesis: str | None, **queue: Any
) -> dict[str, str]:
    from partimento.training import slurm

    root = root.absolute()
    work = [(arguments(root, one, hypothesis), one.name) for one in left]
    queue.setdefault("gpus", left[0].config.train.device != "cpu")
    made = slurm.submit_all(work, folder=root / "logs", cluster=cluster, **queue)
    return {one.run: str(one.job.job_id) for one in made}

"""`partimento ablate`: a grid of changes times seeds, trained and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result, table

PATH = click.Path(path_type=Path)
IN_A_QUEUE = ("partition", "hours", "sbatch")


@click.command()
@click.argument("config", type=PATH)
@click.argument("changes", nargs=-1)
@click.option("--vary", multiple=True, required=True, metavar="SECTION.KEY=A,B,C", help="What varies; TOML or words.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each cell.")
@click.option("--budget", metavar="STEPS|MINUTES", help="Of each run: 2000, or 30min; the configuration's by default.")
@click.option("--hypothesis", metavar="TEXT", help="What is expected, and why; for the log and the reports.")
@click.option("--to", "root", type=PATH, help="Folder that keeps everything; ablations/CONFIG by default.")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time; a GPU each, or one.")
@click.option(
    "--submit", type=click.Choice(["slurm", "local"]), help="Put the runs into a queue as an array (submitit)."
)
@click.option("--partition", help="With --submit: the partition.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="With --submit: limit of one start; 24.")
@click.option("--sbatch", multiple=True, metavar="NAME=VALUE", help="With --submit: a further option of sbatch.")
@click.option("--docs", type=PATH, help="Markdown page to write at the end, a section a pair.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained and what it needs, and stop.")
@quiet_option
@json_option
def command(
    config: Path,
    changes: tuple[str, ...],
    vary: tuple[str, ...],
    seeds: int,
    budget: str | None,
    hypothesis: str | None,
    root: Path | None,
    jobs: int | None,
    submit: str | None,
    docs: Path | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **queue: Any,
) -> None:
    """Train CONFIG, with CHANGES such as optim.lr=3e-4 laid over it, in every combination of what varies, and compare.

    Finished runs are not repeated, interrupted ones go on, a failed one does not stop the others. The comparison is
    written into the folder: compare.html, compare.csv, compare.json.
    """
    import sys

    from partimento.lab.ablation.ablate import ablate

    given = {name: value for name, value in queue.items() if value}
    if given and not submit:
        raise click.UsageError(f"--{next(iter(given))} means nothing without --submit")
    if submit and jobs is not None:
        given["at_once"] = jobs
    with progress(quiet) as display:
        made = ablate(
            config,
            changes,
            vary=vary,
            seeds=seeds,
            budget=budget,
            hypothesis=hypothesis,
            to=root,
            jobs=jobs,
            submit=submit,
            dry_run=dry_run,
            docs=docs,
            command=_line(sys.argv[1:]),
            progress=display,
            **given,
        )
    result(made.to_json(), as_json, _told(made, dry_run))


def _line(arguments: list[str]) -> str:
    import shlex

    return shlex.join(
        ["partimento", *(argument for argument in arguments if argument not in ("--quiet", "-q", "--json"))]
    )


def _told(made: Any, dry_run: bool) -> str:
    from partimento.cli.compare import told
    from partimento.lab.compared.cells import told as value

    plans = [
        [
            ", ".join(f"{key} {value(one)}" for key, one in plan.changes.items()),
            plan.runs,
            plan.parameters,
            f"{plan.disk_bytes * plan.runs / 1e9:.2f}",
            "-" if plan.here is None else f"{plan.here * plan.runs:.2g}",
            *(f"{hours.hours * plan.runs:.2g}" for hours in plan.hours),
        ]
        for plan in made.plans
    ]
    devices = [f"h, {hours.device}" for hours in made.plans[0].hours]
    parts = [table(["cell", "runs", "parameters", "GB", "h, here", *devices], plans)]
    if made.failed:
        parts.append("\n".join(f"failed: {name}: {why}" for name, why in made.failed.items()))
    if made.jobs:
        parts.append("\n".join(f"job {job} trains {made.root / name}" for name, job in made.jobs.items()))
        parts.append(f"next, when they have ended: partimento compare {made.root} --to {made.root / 'compare.html'}")
    if made.comparison is not None:
        parts += [told(made.comparison), f"next: open {made.root / 'compare.html'}"]
    elif dry_run:
        states = [made.status[one.name] for one in made.planned]
        parts.append(", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states)) + "; nothing was done")
    return "\n\n".join(parts)

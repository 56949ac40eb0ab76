"""`partimento train`: a configuration to a run, on one device or many, here or in a queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result

IN_A_QUEUE = ("nodes", "partition", "hours", "sbatch")


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--run", "run_id", help="Id of the run; an existing one is resumed.")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
@click.option("--hypothesis", help="What this run is to find out; kept with it. On a resume: added.")
@click.option("--nproc", type=click.IntRange(min=1), help="Devices on this machine (with --submit: on each node).")
@click.option("--submit", type=click.Choice(["slurm", "local"]), help="Run as a job that resumes itself (submitit).")
@click.option("--nodes", type=click.IntRange(min=1), help="With --submit: machines; 1 by default.")
@click.option("--partition", help="With --submit: the partition.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="With --submit: limit of one start; 24.")
@click.option("--sbatch", multiple=True, metavar="NAME=VALUE", help="With --submit: a further option of sbatch.")
@quiet_option
@json_option
def command(
    config: Path,
    overrides: tuple[str, ...],
    run_id: str | None,
    runs: Path,
    hypothesis: str | None,
    nproc: int | None,
    submit: str | None,
    quiet: bool,
    as_json: bool,
    **queue: Any,
) -> None:
    """Train the model of CONFIG (TOML or JSON), with OVERRIDES such as optim.lr=3e-4 laid over it.

    Ctrl-C saves and says how to go on. With --run ID of an existing run, training resumes bit for bit. torchrun and
    srun work as launchers too.
    """
    from partimento.config import load

    if (given := [name for name in IN_A_QUEUE if queue[name]]) and not submit:
        raise click.UsageError(f"--{given[0]} means nothing without --submit")
    settings = load(config, overrides)
    if submit:
        queue["gpus"] = settings.train.device != "cpu"
        _submit(settings.family, config, overrides, run_id, runs, hypothesis, nproc or 1, submit, as_json, queue)
    elif nproc is not None and nproc > 1:
        from partimento.training import launch

        argv = launch.arguments(
            config, overrides, runs=runs, run=run_id, hypothesis=hypothesis, quiet=quiet, as_json=as_json
        )
        raise SystemExit(launch.spawn(nproc, argv))
    else:
        from partimento.training.engine import train
        from partimento.training.launch import reported
        from partimento.training.ranks import place_here

        with reported(), progress(quiet) as display:
            run = train(settings, runs=runs, run=run_id, hypothesis=hypothesis, progress=display)
        place = place_here()
        if place is not None and place.rank:
            return
        result({"run": str(run.path)}, as_json, f"{run.path}\nnext: partimento report {run.path}")


def _submit(
    family: str,
    config: Path,
    overrides: tuple[str, ...],
    run_id: str | None,
    runs: Path,
    hypothesis: str | None,
    nproc: int,
    cluster: str,
    as_json: bool,
    queue: dict[str, Any],
) -> None:
    from partimento.training import launch, slurm

    run_id = run_id or slurm.new_run_id(family)
    argv = launch.arguments(config.absolute(), overrides, runs=runs.absolute(), run=run_id, hypothesis=hypothesis)
    chosen = {name: value for name, value in queue.items() if value or name == "gpus"}
    made = slurm.submit(argv, run_id, folder=runs / ".jobs", cluster=cluster, nproc=nproc, **chosen)
    values = {"job": str(made.job.job_id), "run": str(runs / made.run), "logs": str(made.logs)}
    text = f"job {values['job']} trains {values['run']}; it resumes itself\nlogs: {values['logs']}"
    result(values, as_json, text)

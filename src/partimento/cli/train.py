"""`partimento train`: a configuration to a run."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--run", "run_id", help="Id of the run; an existing one is resumed.")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
@click.option("--hypothesis", help="What this run is to find out; kept with it.")
@quiet_option
@json_option
def command(
    config: Path,
    overrides: tuple[str, ...],
    run_id: str | None,
    runs: Path,
    hypothesis: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train the model of CONFIG (TOML or JSON), with OVERRIDES such as optim.lr=3e-4 laid over it.

    Ctrl-C saves and says how to go on. With --run ID of an existing run, training resumes bit for bit.
    """
    from partimento.config import load
    from partimento.training.engine import train

    with progress(quiet) as display:
        run = train(load(config, overrides), runs=runs, run=run_id, hypothesis=hypothesis, progress=display)
    result({"run": str(run.path)}, as_json, f"{run.path}\nnext: partimento report {run.path}")

"""`partimento track`: a run, in a tracker, after the fact."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(["tensorboard", "trackio", "wandb"]), help="The tracker.")
@json_option
def command(run: Path, to: str, as_json: bool) -> None:
    """Send all events and demos of RUN to a tracker. What it has of the run is replaced: twice is as good as once.

    The trackers are extras: pip install 'partimento[trackers]'. W&B is written offline; `wandb sync` sends it.
    """
    from partimento.runs.trackers.afterwards import track

    made = track(run, to)
    where = f" in {made['folder']}" if made["folder"] else ""
    result(made, as_json, f"{made['events']} events of {run.name} to {to}{where}")

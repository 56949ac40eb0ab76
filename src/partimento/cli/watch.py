"""`partimento watch`: a run while it trains."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print one picture and end.")
@json_option
def command(run: Path, once: bool, as_json: bool) -> None:
    """Watch RUN from its files: curves, speed, time left, alarms, and whether its process is alive; q quits.

    It works for a run on another machine that writes to a shared disk, and never disturbs the training. With --json the
    figures are printed once.
    """
    from partimento.lab.watching import live

    if as_json:
        result(live.watch(run), as_json)
    else:
        live.show(run, once)

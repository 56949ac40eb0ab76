"""`partimento log`: the research log."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("what", metavar="[DATE|RUN|all]", required=False)
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
@click.option(
    "--to", type=click.Path(path_type=Path), default=Path("log"), show_default=True, help="Folder of the log."
)
@json_option
def command(what: str | None, runs: Path, to: Path, as_json: bool) -> None:
    """Write the page of a day (today, yesterday, 2026-03-15), of a RUN, or of all days, and the index.

    Pages are Markdown to be written on, with the same as HTML beside them. What was written by hand is never
    overwritten: run it as often as you like.
    """
    from partimento.lab.logbook.logbook import log

    made = log(what, runs, to)
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    pages = [str(page) for page in made.pages]
    result({"pages": pages, "notes": list(made.notes)}, as_json, "\n".join(pages))

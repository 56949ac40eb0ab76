"""`partimento report`: a run as one page."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "page", type=click.Path(path_type=Path), help="File to write; RUN/report.html by default.")
@json_option
def command(run: Path, page: Path | None, as_json: bool) -> None:
    """Write the report of RUN: curves, demos to hear, configuration and environment in one offline HTML file."""
    from partimento.lab.report import report

    written = report(run, page)
    result({"report": str(written)}, as_json, str(written))

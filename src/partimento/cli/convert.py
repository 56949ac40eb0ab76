"""`partimento convert`: one file of codes to another."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, lines, result


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("to", metavar="OUT", type=click.Path(path_type=Path))
@json_option
def command(source: Path, to: Path, as_json: bool) -> None:
    """Convert the NPQ file (any version) or NPQ text file IN to OUT.

    The suffix of OUT says to what: .npq1, .npq2, .npq (NPQ2 for mid and side, else NPQ1) or .txt. For whole folders see
    `partimento pack import` and `pack export`.
    """
    from partimento.tokens.convert.single import convert

    found = convert(source, to)
    shown = {name: value for name, value in found.items() if value not in (None, [])}
    result(found, as_json, lines(shown))

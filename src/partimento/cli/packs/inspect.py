"""`partimento pack inspect`."""

from __future__ import annotations

import json

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("pack", metavar="PACK|FILE.npq")
@json_option
def command(pack: str, as_json: bool) -> None:
    """Print what PACK says of itself, without reading its codes.

    Of an NPQ file (any version) it prints what the header says, after checking the whole file.
    """
    from pathlib import Path

    if Path(pack).is_file():
        from partimento.tokens import npq

        found = npq.describe(pack)
        result(found, as_json)
        return
    from partimento.tokens.pack import inspect as look

    found = look(pack)
    result(found, as_json, json.dumps(found, indent=1, default=str))

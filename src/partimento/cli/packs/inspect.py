"""`partimento pack inspect`."""

from __future__ import annotations

import json

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("pack")
@json_option
def command(pack: str, as_json: bool) -> None:
    """Print what PACK says of itself, without reading its codes."""
    from partimento.tokens.pack import inspect as look

    found = look(pack)
    result(found, as_json, json.dumps(found, indent=1, default=str))

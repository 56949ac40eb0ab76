"""`partimento pack labels`."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result


@click.command()
@click.argument("pack")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="File of JSON lines to write.")
@json_option
def command(pack: str, to: Path, as_json: bool) -> None:
    """Write the tags, captions, licences and origins of PACK as JSON lines, to be edited and put back."""
    from partimento.tokens.pack import Pack
    from partimento.tokens.relabel import export

    count = export(Pack.open(pack), to)
    text = f"{to}: the labels of {count} clips\nnext: partimento pack edit {pack} --labels {to} --why TEXT"
    result({"file": str(to), "clips": count}, as_json, text)

"""`partimento doctor`: what is wrong with a run or a checkpoint, how sure that is, and what to try first."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("path", metavar="RUN|CHECKPOINT", type=PATH)
@click.argument("other", metavar="[OTHER]", required=False, type=PATH)
@click.option("--to", type=PATH, metavar="PAGE", help="Write an HTML page to this file.")
@json_option
def command(path: Path, other: Path | None, to: Path | None, as_json: bool) -> None:
    """Examine a run or a checkpoint: diagnoses with their evidence, what is fine, what could not be looked at.

    With OTHER, a second checkpoint is held against the first, and a second run is examined as well. Reads files alone.
    """
    from partimento.lab.doctor.doctor import doctor
    from partimento.lab.doctor.page import page
    from partimento.lab.doctor.text import text

    found = doctor(path, other)
    if to is not None:
        page(found, to)
    shown = text(found) + (f"\n\n{to}" if to else "")
    result({**found.to_json(), "page": None if to is None else str(to)}, as_json, shown)

"""`partimento memorised`: is what was played copied from the training clips?"""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result
from partimento.errors import PartimentoError


@click.command()
@click.argument("paths", nargs=-1, metavar="RUN|FOLDER|FILE...", type=click.Path(path_type=Path))
@click.option("--against", metavar="PACK", help="Pack whose training clips are searched; a run's own by default.")
@click.option("--to", type=click.Path(path_type=Path), metavar="PAGE", help="Write an HTML page to this file.")
@click.option("--codec", help="Codec of the pack, where the name that it gives does not find it.")
@quiet_option
@json_option
def command(
    paths: tuple[Path, ...], against: str | None, to: Path | None, codec: str | None, quiet: bool, as_json: bool
) -> None:
    """Search the training clips for what RUN plays in its newest demos, or for files of audio or codes (.npq, .npy).

    The longest exact runs of frames and the best near-copy of each sample, with clip and time; how sure it is that
    they are more than what held-out music shows; whether the playing drifts; and how different the samples are.
    """
    from partimento.lab.memorised import memorised
    from partimento.lab.memorised.text import text

    with progress(quiet) as display:
        found = memorised(*paths, against=against, to=to, codec=codec, progress=display)
    shown = text(found) + (f"\n\n{to}" if to else "")
    result({**found.to_json(), "page": None if to is None else str(to)}, as_json, shown)
    if found.failed:
        raise PartimentoError(
            "LAB047",
            f"{len(found.failed)} of {len(found.failed) + len(found.samples)} files could not be audited",
            where=found.failed[0]["name"],
            why=found.failed[0]["error"]["message"],
            next=f"partimento explain {found.failed[0]['error']['code']}",
        )

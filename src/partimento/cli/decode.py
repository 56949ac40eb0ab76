"""`partimento decode`: codes back to audio."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder for the audio.")
@click.option("--clip", help="Only the clip with this id.")
@quiet_option
@json_option
def command(source: Path, folder: Path, clip: str | None, quiet: bool, as_json: bool) -> None:
    """Decode a pack (SOURCE is a folder), or send an audio file through the codec to hear what it keeps."""
    from partimento.codecs.encode import decode

    with progress(quiet) as display:
        written = decode(source, folder, clip=clip, progress=display)
    files = [str(path) for path in written]
    result({"files": files}, as_json, "\n".join(files))

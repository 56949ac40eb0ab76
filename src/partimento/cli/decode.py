"""`partimento decode`: codes back to audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from partimento.cli.codec import Books
from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.argument("source")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder, or the file of one clip.")
@click.option("--clip", help="Only the clip with this id.")
@click.option("--codec", help="Where the pack's codec is, if not by its name; for a file: resident-44k by default.")
@click.option("--layout", default="mono", show_default=True, help="For a file: mono, left-right or mid-side.")
@click.option("--books", type=Books(), help="For a file: codebooks, for two channels of each: 9,4.")
@click.option("--upmix", is_flag=True, help="For a file of one channel in a layout of two.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@quiet_option
@json_option
def command(source: str, to: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Decode a pack (SOURCE is a folder or URL), or send an audio file through the codec to hear what it keeps."""
    from partimento.codecs.encode import decode

    with progress(quiet) as display:
        written = decode(source, to, **options, progress=display)
    files = [str(path) for path in written]
    result({"files": files}, as_json, "\n".join(files))

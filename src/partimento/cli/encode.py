"""`partimento encode`: audio to a pack."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from partimento.cli.terminal import json_option, lines, progress, quiet_option, result


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", "pack", required=True, type=click.Path(path_type=Path), help="Folder of the pack.")
@click.option("--codec", default="resident-44k", show_default=True, help="A name of `partimento codec list`.")
@click.option("--layout", type=click.Choice(["mono"]), default="mono", show_default=True, help="Channel layout.")
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; one a core by default.")
@click.option("--dry-run", is_flag=True, help="Count and estimate only.")
@quiet_option
@json_option
def command(
    sources: tuple[Path, ...],
    pack: Path,
    codec: str,
    layout: str,
    jobs: int | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Encode the audio in SOURCES (folders or files) into a pack.

    Tags are read from tags.jsonl in a folder, or from a .txt or .json beside a file. What cannot be read is listed in
    rejects.jsonl with its reason. Killed at any moment, the same command goes on where it was; run again on a finished
    pack it does nothing.
    """
    from partimento.codecs.encode import encode

    with progress(quiet) as display:
        report = encode(list(sources), pack, codec=codec, layout=layout, jobs=jobs, dry_run=dry_run, progress=display)
    values = asdict(report)
    text = lines(values)
    if not dry_run:
        text += f"\nnext: partimento pack stats {pack}"
    result(values, as_json, text)

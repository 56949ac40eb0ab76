"""`partimento pack export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.argument("pack")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="The new folder.")
@click.option(
    "--format",
    "format_",
    required=True,
    type=click.Choice(["npq1", "npq2", "text", "parquet", "wav", "flac"]),
    help="npq1: mono. npq2: mono, or mid and side. parquet: every layout. wav, flac: decoded.",
)
@click.option("--clip", "clips", multiple=True, help="Only the clip of this name; may be given again.")
@click.option("--codec", help="The codec for wav and flac, if the pack does not name one.")
@click.option("--device", default="auto", show_default=True, help="Where wav and flac are decoded: auto, cpu, cuda.")
@quiet_option
@json_option
def command(
    pack: str,
    folder: Path,
    format_: str,
    clips: tuple[str, ...],
    codec: str | None,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the clips of PACK as files that other programs read.

    What a format cannot hold (tags, licences, exact lengths, the codec) stands beside in metadata.jsonl and
    export.json, and `partimento pack import` of the folder gives every clip back as it was.
    """
    from partimento.codecs.exports import export_pack

    with progress(quiet) as display:
        report = export_pack(pack, folder, format_, clips=clips, codec=codec, device=device, progress=display)
    result(asdict(report), as_json, "\n".join(str(folder / name) for name in report.files))

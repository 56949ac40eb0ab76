"""`partimento pack copy`."""

from __future__ import annotations

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.argument("pack")
@click.option("--to", required=True, help="Folder or URL (s3://bucket/pack) where the copy will be.")
@quiet_option
@json_option
def command(pack: str, to: str, quiet: bool, as_json: bool) -> None:
    """Copy PACK (a folder or a URL) to a folder or a URL, hashing every byte on the way.

    pack.json is written last, so a copy that broke off is no pack; the same command goes on. Reading needs no copy:
    every command takes a URL and keeps the shards that it read in $PARTIMENTO_CACHE.
    """
    from partimento.tokens.far import copy

    with progress(quiet) as display:
        display.stage("copy", "shards, tables, and pack.json last")
        written = copy(pack, to, progress=display)
    result(
        {"pack": to, "bytes": written}, as_json, f"{to}: {written:,} bytes written\nnext: partimento pack verify {to}"
    )

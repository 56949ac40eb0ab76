"""`partimento band`: labelled loops to try things with."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=40, show_default=True, help="Number of loops.")
@click.option("--seed", default=0, show_default=True, help="Key of everything that is drawn.")
@click.option("--stereo", is_flag=True, help="Two channels; mono otherwise.")
@click.option("--captions", is_flag=True, help="A sentence about each loop, too, for models that read text.")
@quiet_option
@json_option
def command(folder: Path, count: int, seed: int, stereo: bool, captions: bool, quiet: bool, as_json: bool) -> None:
    """Render loops of the built-in band into FOLDER, with tags.jsonl beside them.

    The band plays drums, bass, chords and lead in several styles; tempo, key, bars, instruments and style are the tags.
    The same seed gives the same files.
    """
    from partimento.audio.synth import render_band

    with progress(quiet) as display:
        display.stage("band", "drums, bass, chords and lead, in several styles")
        loops = render_band(folder, count, seed, stereo=stereo, captions=captions, progress=display)
    result(
        {"folder": str(folder), "loops": len(loops)},
        as_json,
        f"{len(loops)} loops in {folder}\nnext: partimento encode {folder} --to packs/{folder.name}",
    )

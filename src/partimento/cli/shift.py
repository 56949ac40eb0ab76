"""`partimento shift`: the pitch of recordings, moved and cleaned."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from partimento.cli.terminal import Real, json_option, progress, quiet_option

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...", type=PATH)
@click.option("--semitones", required=True, type=Real(-24, 24), help="Up, or down if negative; -0.5 is a quarter tone.")
@click.option("--to", required=True, type=PATH, help="Folder, or the .wav or .flac of one file.")
@click.option(
    "--cleaner",
    default="default",
    metavar="RUN|FOLDER|none",
    help="Restorer that cleans up behind the shifter; by default the one in the package.",
)
@click.option("--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True, help="Of a run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--force", is_flag=True, help="Replace outputs that are there already.")
@quiet_option
@json_option
def command(
    inputs: tuple[Path, ...],
    semitones: float,
    to: Path,
    cleaner: str,
    weights: Literal["ema", "raw"],
    device: str,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Shift the pitch of the recordings IN... (files and folders), each sound at its time, and clean the result.

    Any length, sample rate and channel count: outputs have those of their inputs. What was made before is not made
    again, so the same command goes on after an interruption.
    """
    from partimento.cli.restore import tell
    from partimento.play.shifting import shift_files

    with progress(quiet) as display:
        found = shift_files(
            inputs, semitones, to, cleaner=cleaner, weights=weights, device=device, force=force, progress=display
        )
    tell(found.files, found.to_json(), as_json)

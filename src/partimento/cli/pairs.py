"""`partimento pairs`: recordings to pairs of damaged and clean waves."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from partimento.cli.terminal import json_option, lines, progress, quiet_option, result


class Semitones(click.ParamType):
    """-12,-7,3.5 -> (-12.0, -7.0, 3.5)."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of semitones such as -12,-7,3,7", param, ctx)
        if not all(math.isfinite(number) for number in numbers):
            self.fail(f"{value!r} holds what is not a number", param, ctx)
        return numbers


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Folder of the pairs.")
@click.option(
    "--task",
    type=click.Choice(["clean", "unshift"]),
    default="clean",
    show_default=True,
    help="clean: shifted and back, to be as before. unshift: shifted once, to be unshifted.",
)
@click.option("--semitones", type=Semitones(), default="-12,-7,-3,3,7,12", show_default=True, help="The shifts.")
@click.option(
    "--sample-rate", type=click.IntRange(8000, 192000), default=44100, show_default=True, help="Of the pairs."
)
@click.option("--narrow-band", is_flag=True, help="Shift at this rate, so that shifts up and back lose the highs.")
@click.option(
    "--group",
    type=click.Choice(["file", "folder"]),
    default="file",
    show_default=True,
    help="What the split keeps together.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; one a core by default.")
@click.option("--dry-run", is_flag=True, help="Count and estimate only.")
@quiet_option
@json_option
def command(folders: tuple[Path, ...], to: Path, narrow_band: bool, quiet: bool, as_json: bool, **options: Any) -> None:
    """Shift the recordings in FOLDERS and write pairs to train a restorer on.

    Training makes pairs by itself from data.folders; written ones (data.pairs) can be heard, moved to another machine,
    and are the same whatever shifter is installed there. Killed at any moment, the same command goes on where it was.
    """
    from partimento.training.pairwriting import write_pairs

    with progress(quiet) as display:
        report = write_pairs(folders, to, full_band=not narrow_band, progress=display, **options)
    values = asdict(report)
    shown = {**values, "rejected": len(report.rejected)}
    text = lines(shown)
    if report.rejected and report.dry_run:
        text += "\n" + "\n".join(f"left out: {item['file']}: {item['code']} {item['why']}" for item in report.rejected)
    if not report.dry_run:
        text += f"\nnext: set data.pairs = {str(to)!r} in a configuration of the family restore"
    result(values, as_json, text)

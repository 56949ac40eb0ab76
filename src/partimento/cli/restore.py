"""`partimento restore`: recordings through a trained restorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from partimento.cli.terminal import failed, json_option, progress, quiet_option, result, table

if TYPE_CHECKING:
    from partimento.play.record import Made

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=PATH)
@click.argument("inputs", nargs=-1, required=True, metavar="IN...", type=PATH)
@click.option("--to", required=True, type=PATH, help="Folder, or the .wav or .flac of one file.")
@click.option("--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True, help="Of a run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--force", is_flag=True, help="Replace outputs that are there already.")
@quiet_option
@json_option
def command(
    run: Path,
    inputs: tuple[Path, ...],
    to: Path,
    weights: Literal["ema", "raw"],
    device: str,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Restore the recordings IN... (files and folders) with RUN: a run of the family restore, or a folder of its
    weights.

    Any length, sample rate and channel count: outputs have those of their inputs. What was made before is not made
    again, so the same command goes on after an interruption.
    """
    from partimento.play.restoring import restore

    with progress(quiet) as display:
        made = restore(run, inputs, to, weights=weights, device=device, force=force, progress=display)
    tell(made, {"files": [one.to_json() for one in made]}, as_json)


def tell(made: Sequence[Made], values: Mapping[str, Any], as_json: bool) -> None:
    """What became of each file, and the failure of those that could not be done."""
    from partimento.play.filewise import failure

    head = ["file", "state", "seconds", "clipped", "x real time", "done"]
    rows = [
        [
            click.format_filename(one.file or one.input),
            one.state,
            f"{one.samples / one.sample_rate:.3f}" if one.samples and one.sample_rate else "-",
            "-" if one.clipped is None else str(one.clipped),
            "-" if one.x_real_time is None or one.state == "there" else f"{one.x_real_time:.1f}",
            one.done or (f"{one.error['code']}: {one.error['message']}" if one.error else "-"),
        ]
        for one in made
    ]
    err = failure(made)
    if err is None:
        result(values, as_json, table(head, rows))
    else:
        failed(values, err, as_json, table(head, rows))

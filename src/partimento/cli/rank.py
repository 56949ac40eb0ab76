"""`partimento rank`: checkpoints over runs, from the best."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, result, table

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--metric", help="Figure of the validation, train.NAME or demo.NAME; the score by default.")
@click.option("--highest/--lowest", default=None, help="Which is better; the lowest, but of SI-SDR.")
@click.option("--csv", "csv_file", type=PATH, help="Table to write.")
@json_option
def command(
    runs: tuple[Path, ...], metric: str | None, highest: bool | None, csv_file: Path | None, as_json: bool
) -> None:
    """Rank the checkpoints of RUNS, or of all runs in a folder, and say which of the first cannot be told apart.

    Runs that differ in the seed alone are one place a step, with an interval over the seeds.
    """
    from partimento.lab.compared.rank import rank

    found = rank(runs, metric=metric, highest=highest, csv=csv_file)
    rows = [
        [
            number,
            f"{place.value:.5g}" + (f" ± {place.half:.2g}" if place.half is not None else ""),
            "" if place.tied is None else "cannot be told from 1" if place.tied else "behind 1",
            place.step,
            place.cell,
            str(place.checkpoints[0]) + (f" and {len(place.checkpoints) - 1} more" if place.checkpoints[1:] else ""),
        ]
        for number, place in enumerate(found.places, 1)
    ]
    shown = table(["", found.metric, "", "step", "cell", "checkpoint"], rows)
    result(found.to_json(), as_json, "\n".join([shown, "", found.sentence, *(f"note: {one}" for one in found.notes)]))

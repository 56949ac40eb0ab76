"""`partimento evaluate`: a restorer on recordings that it never trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from partimento.cli.pairs import Semitones
from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.argument("source", metavar="RUN|FOLDER", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Folder for the page and the figures; RUN/evaluation.")
@click.option("--pairs", type=click.Path(path_type=Path), help="Folder that `partimento pairs` wrote.")
@click.option(
    "--against", multiple=True, type=click.Path(path_type=Path), help="Recordings, or a folder of them; repeatable."
)
@click.option("--semitones", type=Semitones(), help="Shifts, e.g. -12,-7,7,12; by default those of the training.")
@click.option("--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True, help="Of a run.")
@click.option("--limit", type=click.IntRange(1), default=24, show_default=True, help="Most recordings.")
@click.option(
    "--predictor", multiple=True, metavar="MODULE:FUNCTION", help="(wave_CN, rate) -> float, as one figure more."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@quiet_option
@json_option
def command(source: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Judge the restorer of RUN, or of an exported FOLDER, on held-out recordings: its own, --pairs, or --against.

    For each shift: what came in, what went out, their difference with a bootstrap interval over sources, and artifacts.
    Writes evaluation.html (with sounds and pictures), figures.json and records.jsonl.
    """
    from partimento.lab.restored.evaluate import evaluate
    from partimento.lab.restored.text import text

    with progress(quiet) as display:
        found = evaluate(source, progress=display, **options)
    files = {name: str(found.folder / name) for name in ("evaluation.html", "figures.json", "records.jsonl")}
    result({**found.to_json(), "files": files}, as_json, f"{text(found)}\n\n{files['evaluation.html']}")

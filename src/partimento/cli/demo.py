"""`partimento demo`: the whole road in one command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder for all.")
@quiet_option
@json_option
def command(out: Path, quiet: bool, as_json: bool) -> None:
    """The whole road on the built-in band: encode, train, play, report. Minutes on two CPU cores, nothing downloaded.

    Stopped at any point, the same command goes on where it was.
    """
    from partimento.road import demo

    with progress(quiet) as display:
        road = demo(out, progress=display)
    better = road.bits_per_second < road.bigram_bits_per_second
    verdict = (
        f"Held-out loops cost the model {road.bits_per_second:,.0f} bits per second of audio; "
        f"{road.bigram_bits_per_second:,.0f} by bigrams, {road.unigram_bits_per_second:,.0f} by unigrams.\n"
        f"It {'beats' if better else 'does not beat'} the bigram baseline."
    )
    values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(road).items()}
    result(
        {**values, "beats_bigram": better},
        as_json,
        f"""{verdict}

report   {road.report.resolve().as_uri()}

What to do next
  hear it play       partimento sample {road.run} --to {out}/samples --tags techno --seconds 10
  your own music     partimento encode MUSIC --to packs/mine
  change something   partimento train {out}/band.toml --runs {out}/runs model.pattern=parallel
  what is in a pack  partimento pack stats {road.pack}""",
    )

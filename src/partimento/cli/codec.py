"""`partimento codec`: codecs, checked and exported."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from partimento.cli.terminal import json_option, lines, progress, quiet_option, result, table


@click.group()
def command() -> None:
    """List, check and export codecs."""


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the codecs that come with partimento."""
    from partimento.codecs.codec import open_codec
    from partimento.codecs.resident import RESIDENT

    spec = open_codec(RESIDENT).spec
    kbps = sum((size - 1).bit_length() for size in spec.cardinalities) * float(spec.frame_rate) / 1000
    row = [RESIDENT, spec.sample_rate, float(spec.frame_rate), spec.codebooks, spec.cardinality, kbps, spec.layout]
    head = ["codec", "Hz", "frames/s", "books", "codes", "kbit/s", "layout"]
    result({"codecs": [dict(zip(head, row, strict=True))]}, as_json, table(head, [row]))


@command.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--codec", "name", default="resident-44k", show_default=True)
@quiet_option
@json_option
def check(files: tuple[Path, ...], name: str, quiet: bool, as_json: bool) -> None:
    """Send audio FILES (or folders) through a codec and measure what comes back.

    mel7 is the distance of DAC's seven mel scales (lower is better); beside it stands what the same audio without
    anything above 2 kHz scores.
    """
    from partimento.audio import files as audio
    from partimento.codecs.codec import open_codec
    from partimento.codecs.layout import arrange
    from partimento.codecs.measure import measure

    codec = open_codec(name)
    with progress(quiet) as display:
        display.stage("check", "each file is encoded, decoded and compared")
        waves = []
        for path in audio.discover(list(files)):
            sound = audio.read_isolated(path)
            wave_CN = arrange(sound.wave_CN, codec.spec.layout).wave_CN
            waves.append(audio.resample(wave_CN, sound.sample_rate, codec.spec.sample_rate)[0])
        found = measure(codec, waves)
    result(found.to_json(), as_json, lines(asdict(found)))


@command.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder of the codec.")
@quiet_option
@json_option
def export(run: Path, folder: Path, quiet: bool, as_json: bool) -> None:
    """Write the codec that RUN trained: weights in half precision, and a card with its measured figures.

    The folder can be given to --codec everywhere.
    """
    from partimento.training.export import export_resident

    with progress(quiet) as display:
        card = export_resident(run, folder, progress=display)
    result(card, as_json, f"{folder}\nnext: partimento codec check FILES --codec {folder}")

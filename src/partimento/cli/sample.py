"""`partimento sample`: a trained run plays."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from partimento.cli.terminal import Real, json_option, progress, quiet_option, result


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder for the audio.")
@click.option("--tags", default="", help="Tags to play with, separated by commas; without them unconditional.")
@click.option("--seconds", type=Real(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--temperature", type=Real(min=0), default=1.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="0 keeps all codes.")
@click.option("--top-p", type=Real(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--guidance", type=Real(), default=1.0, show_default=True, help="u + s(c - u); 1 is conditional only.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first sample; the next have the next seeds.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Number of samples.")
@click.option("--continue", "prompt", type=click.Path(path_type=Path), help="Audio file to play on from.")
@click.option("--codec", help="Codec, where the name that the run gives does not find it.")
@click.option("--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True)
@quiet_option
@json_option
def command(
    run: Path,
    folder: Path,
    tags: str,
    seconds: float,
    temperature: float,
    top_k: int,
    top_p: float,
    guidance: float,
    seed: int,
    count: int,
    prompt: Path | None,
    codec: str | None,
    weights: Literal["ema", "raw"],
    quiet: bool,
    as_json: bool,
) -> None:
    """Let RUN play: writes audio files, and beside each a JSON file with everything that made it."""
    from partimento.play import sample

    with progress(quiet) as display:
        written = sample(
            run,
            folder,
            tags=[tag.strip() for tag in tags.split(",") if tag.strip()],
            seconds=seconds,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance=guidance,
            seed=seed,
            count=count,
            prompt=prompt,
            codec=codec,
            weights=weights,
            progress=display,
        )
    result({"samples": written}, as_json, "\n".join(str(folder / one["file"]) for one in written))

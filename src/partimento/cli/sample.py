"""`partimento sample`: a trained run plays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from partimento.cli.terminal import Real, json_option, progress, quiet_option, result, table


class Numbers(click.ParamType):
    """Numbers with commas between them, each within the range."""

    name = "numbers"

    def __init__(self, least: float) -> None:
        self.one = Real(min=least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if not isinstance(value, str):
            return [float(value)]
        return [self.one.convert(part.strip(), param, ctx) for part in value.split(",")]


PATH = click.Path(path_type=Path)


def _once(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> str:
    """The value of an option that may be given once; of several, click would take the last without a word."""
    if len(given) > 1:
        raise click.BadParameter("given more than once; several prompts go into a file, one a line: --prompts FILE")
    return given[0] if given else ""


@click.command()
@click.argument("run", type=PATH, required=False)
@click.option("--to", "folder", type=PATH, help="Folder for the audio.")
@click.option("--tags", multiple=True, callback=_once, help="Tags to play with, separated by commas.")
@click.option(
    "--prompt",
    multiple=True,
    callback=_once,
    metavar="TEXT",
    help="Text to play with; without tags and text unconditional.",
)
@click.option("--prompts", type=PATH, metavar="FILE", help='Many prompts, one a line: "tags | text", or JSON.')
@click.option("--seconds", type=Real(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--temperature", type=Numbers(0), default=1.0, show_default=True, help="0 is greedy. 0.8,1 plays both.")
@click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="0 keeps all codes.")
@click.option("--top-p", type=Real(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--min-p", type=Real(0, 1), default=0.0, show_default=True, help="Drop codes below this x the likeliest.")
@click.option("--guidance", type=Numbers(0), default=1.0, show_default=True, help="s in u + s(c - u). 1,3 plays both.")
@click.option("--guidance-rule", type=click.Choice(["mix", "filter"]), help="The model's own unless given.")
@click.option("--guidance-top-k", type=click.IntRange(min=2), default=45, show_default=True, help="Of the filter.")
@click.option("--guidance-fade", type=click.Choice(["constant", "linear"]), default="constant", show_default=True)
@click.option("--guidance-from", type=Real(0, 1), default=0.0, show_default=True, help="Share of the frames: 0 to 1.")
@click.option("--guidance-to", type=Real(0, 1), default=1.0, show_default=True, help="Outside, guidance is 1.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first sample; the next have the next seeds.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Samples of each combination.")
@click.option("--continue", "continue_from", type=PATH, metavar="FILE", help="Audio file to play on from.")
@click.option("--weights", type=click.Choice(["ema", "raw"]), default="ema", show_default=True)
@click.option("--codec", help="Codec, where the name that the run gives does not find it.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Items played together.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--compile/--no-compile", default=None, help="Compile the steps; by default on a CPU with a compiler.")
@click.option("--precision", type=click.Choice(["full", "bf16", "int8"]), default="full", show_default=True)
@click.option("--dry-run", is_flag=True, help="Print what would be made, and what is there.")
@click.option("--stream", is_flag=True, help="Play one item to standard output, as WAV, while it is made.")
@click.option("--again", type=PATH, metavar="FILE", help="Play this sample (or its .json) again and compare.")
@quiet_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    run: Path | None,
    folder: Path | None,
    tags: str,
    weights: Literal["ema", "raw"],
    codec: str | None,
    continue_from: Path | None,
    device: str,
    batch: int,
    dry_run: bool,
    stream: bool,
    again: Path | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Let RUN play: every prompt x temperature x guidance x seed.

    Writes FLAC files that say how they were made, and a JSON file beside each. What is there already is not played
    again, so the same command goes on after an interruption.
    """
    options["tags"] = [tag.strip() for tag in tags.split(",") if tag.strip()]
    shared: dict[str, Any] = {"codec": codec, "continue_from": continue_from, "device": device}
    if again is not None:
        _only(context, "--again", {"run", "folder", "again", "quiet", "as_json", *shared})
        _again(run, folder, again, quiet, as_json, shared)
    elif run is None:
        raise click.UsageError("Missing argument 'RUN'.")
    elif stream:
        _without(context, "--stream", {"folder", "batch", "dry_run", "as_json"})
        _stream(run, quiet, {**shared, "weights": weights, **options})
    elif folder is None:
        raise click.UsageError("Missing option '--to' (or --stream, or --again FILE).")
    else:
        from partimento.play import sample

        options |= {**shared, "weights": weights, "batch": batch, "dry_run": dry_run}
        with progress(quiet) as display:
            made = sample(run, folder, progress=display, **options)
        _tell(folder, made, as_json)


def _tell(folder: Path, made: list[dict[str, Any]], as_json: bool) -> None:
    head = ["file", "state", "asked s", "got s", "ended"]
    keys = ("seconds_asked", "seconds", "ended")
    rows = [[str(folder / one["file"]), one["state"], *(_shown(one.get(key)) for key in keys)] for one in made]
    result({"samples": made}, as_json, table(head, rows))


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.3f}"
    return {True: "yes", False: "no", None: "-"}[value]


def _again(
    run: Path | None, folder: Path | None, sample: Path, quiet: bool, as_json: bool, shared: dict[str, Any]
) -> None:
    from partimento.cli.terminal import failed
    from partimento.errors import PartimentoError
    from partimento.play import again

    with progress(quiet) as display:
        found = again(sample, run=run, to=folder, progress=display, **shared)
    values = {
        "equal": found.equal,
        "samples_sha256": found.samples_sha256,
        "recorded_sha256": found.recorded_sha256,
        "differs": found.differs,
        "file": None if found.file is None else str(found.file),
    }
    kept = "" if found.file is None else f": {found.file}"
    try:
        found.check()
    except PartimentoError as err:
        failed(values, err, as_json, f"other audio than {sample}{kept}")
    result(values, as_json, f"the same audio as {sample}{kept}")


def _stream(run: Path, quiet: bool, options: dict[str, Any]) -> None:
    from partimento.play.pipe import pipe

    if sys.stdout.isatty():
        raise click.UsageError("--stream writes audio to standard output: send it to a file or a player (| mpv -).")
    # Unbuffered, so that nothing is left to be written when the reader is gone or the disk is full.
    with progress(quiet) as display, open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as out:
        try:
            found = pipe(run, out, progress=display, **options)
        except BrokenPipeError:  # the reader has heard enough
            return
    if not quiet:
        first = "-" if found["first_audio"] is None else f"{found['first_audio']:.2f} s"
        click.echo(
            f"{'stopped after' if found['stopped'] else 'played'} {found['seconds']:.3f} s; first audio after {first}, "
            f"{found['realtime']:.1f} x real time" + (f"; {found['clipped']} samples clipped" * (found["clipped"] > 0)),
            err=True,
        )
    if found["stopped"]:
        raise click.exceptions.Exit(130)


def _given(context: click.Context) -> dict[str, str]:
    """The options that stand on the command line, by the name of their parameter."""
    source = click.core.ParameterSource.COMMANDLINE
    named = {p.name: p.opts[0] for p in context.command.params if p.name}
    return {name: opt for name, opt in named.items() if context.get_parameter_source(name) is source}


def _only(context: click.Context, mode: str, allowed: set[str]) -> None:
    for name, option in _given(context).items():
        if name not in allowed:
            raise click.UsageError(f"{option} means nothing with {mode}: the file says how it was made.")


def _without(context: click.Context, mode: str, wrong: set[str]) -> None:
    for name, option in _given(context).items():
        if name in wrong:
            raise click.UsageError(f"{option} means nothing with {mode}.")

"""`partimento score`: objective figures."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result
from partimento.errors import PartimentoError


def _tell(kind: str) -> object:
    """An option that prints one of the tables of figures and ends."""

    def callback(ctx: click.Context, param: click.Parameter, given: bool) -> None:
        if given and not ctx.resilient_parsing:
            import json

            from partimento.lab.scores import table

            click.echo(table.text() if kind == "figures" else json.dumps(table.schema(), indent=2))
            ctx.exit()

    return callback


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--against", help="Pack (folder or URL) or folder of recordings to compare the set of files with.")
@click.option("--run", type=click.Path(path_type=Path), help="Run: its held-out figures and its newest demos.")
@click.option("--codec", help="Codec of that pack, where the name that it gives does not find it.")
@click.option("--labels", is_flag=True, help="Name tempo, key and style, as the built-in band knows them.")
@click.option(
    "--embedding",
    "embeddings",
    multiple=True,
    default=("logmel-96",),
    show_default=True,
    help="logmel-96, clap:FOLDER, or module:function of your own; several times for several.",
)
@click.option("--predictor", "predictors", multiple=True, help="module:function of a learned judge of one sound.")
@click.option("--figures", is_flag=True, is_eager=True, expose_value=False, callback=_tell("figures"),
              help="Say what every figure is, and its unit.")  # fmt: skip
@click.option("--schema", is_flag=True, is_eager=True, expose_value=False, callback=_tell("schema"),
              help="Print the JSON schema of --json.")  # fmt: skip
@quiet_option
@json_option
def command(
    paths: tuple[Path, ...],
    against: str | None,
    run: Path | None,
    codec: str | None,
    labels: bool,
    embeddings: tuple[str, ...],
    predictors: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure audio files (folders are searched) and runs (their newest demos), and sets of files against a pack or a
    folder, and against what was asked for.

    No trained judge is involved but those that you name. "-" is a figure that is undefined for that sound, or that
    failed; it is never counted as zero.
    """
    from partimento.cli.score_text import text
    from partimento.lab.score import score

    with progress(quiet) as display:
        scores = score(
            paths,
            against=against,
            run=run,
            codec=codec,
            labels=labels,
            embeddings=embeddings,
            predictors=predictors,
            progress=display,
        )
    if as_json:
        result({"scores": [one.to_json() for one in scores]}, as_json)
    else:
        click.echo(text(scores))
    failed = [(one.name, one.error) for one in scores if one.error]
    if failed:
        name, error = failed[0]
        raise PartimentoError(
            "LAB008",
            f"{len(failed)} of {sum(one.measures is not None or one.error is not None for one in scores)}"
            " could not be scored",
            where=name,
            why=error["message"],
            next=f"partimento explain {error['code']}",
        )

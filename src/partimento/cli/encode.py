"""`partimento encode`: audio to a pack."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from partimento.cli.codec import Books
from partimento.cli.terminal import Real, json_option, lines, progress, quiet_option, result

HOURS = Real(0, 24 * 365, min_open=True)


class Part(click.ParamType):
    """3/8."""

    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        part, _, parts = value.partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            self.fail(f"{value!r} is not a part such as 1/8 or 8/8", param, ctx)
        return int(part), int(parts)


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", "pack", required=True, type=click.Path(path_type=Path), help="Folder of the pack.")
@click.option("--codec", default="resident-44k", show_default=True, help="Name or folder; see `partimento codec list`.")
@click.option("--layout", default="mono", show_default=True, help="mono, left-right or mid-side.")
@click.option("--books", type=Books(), help="Codebooks, for two channels of each: 9,4.")
@click.option("--upmix", is_flag=True, help="Code recordings of one channel twice where the layout has two.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes; one a core (or a GPU) by default.")
@click.option("--shard", type=Part(), help="Make this part of the shards only: 1/8 to 8/8, one a machine.")
@click.option("--claim", is_flag=True, help="Share the work with other processes that have --claim.")
@click.option("--submit", type=click.Choice(["slurm", "local"]), help="Run as an array of tasks (needs submitit).")
@click.option("--tasks", type=click.IntRange(min=1), help="With --submit: how many; 1 by default.")
@click.option("--partition", help="With --submit: the partition.")
@click.option("--hours", type=HOURS, help="With --submit: the limit of each task; 24 by default.")
@click.option("--aliases", type=click.Path(path_type=Path), help="TOML file: which tags are to be called otherwise.")
@click.option("--licence", help="Only recordings that ask for no more: attribution,share-alike; none.")
@click.option("--dry-run", is_flag=True, help="Count and estimate only.")
@quiet_option
@json_option
def command(
    sources: tuple[Path, ...],
    pack: Path,
    submit: str | None,
    tasks: int | None,
    partition: str | None,
    hours: float | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Encode the audio in SOURCES (folders, files, or manifests: data.jsonl) into a pack.

    Tags are read from tags.jsonl in a folder, or from files beside the recordings. What cannot be read is listed in
    rejects.jsonl with its reason. Killed at any moment, the same command goes on where it was; run again on a finished
    pack it does nothing.

    Many processes, also on many machines, share the work with --claim or --shard; the last one makes it a pack.
    """
    given = {"tasks": tasks, "partition": partition, "hours": hours}
    array: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if array and not submit:
        raise click.UsageError(f"--{next(iter(array))} means nothing without --submit")
    if submit and (options["claim"] or options["shard"]):
        raise click.UsageError("--submit shares the work by itself; leave --shard and --claim out")
    with progress(quiet) as display:
        if submit and not options["dry_run"]:
            from partimento.codecs import slurm

            wanted = {name: value for name, value in options.items() if name not in ("claim", "shard", "dry_run")}
            report = slurm.submit(sources, pack, cluster=submit, progress=display, **array, **wanted)
        else:
            from partimento.codecs.encode import encode

            report = encode(list(sources), pack, **options, progress=display)
    values = asdict(report)
    text = lines(values)
    if report.waiting and not report.dry_run:
        text += f"\nwaiting for {report.waiting} units of others; who finishes the last one makes the pack"
    elif not report.dry_run:
        text += f"\nnext: partimento pack stats {pack}"
    result(values, as_json, text)

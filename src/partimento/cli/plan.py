"""`partimento plan`: parameters, data, memory, hours and disk of a training before it begins."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import Real, json_option, progress, quiet_option, result, table

ABOVE_ZERO = Real(min=0, min_open=True)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="How many share the work.")
@click.option("--memory", type=ABOVE_ZERO, help="GB of each of them: does it fit, and what batch would?")
@click.option("--flops", type=ABOVE_ZERO, help="TFLOP/s of each of them in the precision of CONFIG, for the hours.")
@click.option(
    "--codec", metavar="NAME", help="That the codes are of, in place of the pack in CONFIG: only shapes count."
)
@click.option("--hours", type=ABOVE_ZERO, help="Of music in the train split, where there is no pack. [with --codec]")
@click.option("--measure", is_flag=True, help="Time a few real steps on this machine.")
@quiet_option
@json_option
def command(
    config: Path,
    overrides: tuple[str, ...],
    devices: int,
    memory: float | None,
    flops: float | None,
    codec: str | None,
    hours: float | None,
    measure: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """What the training of CONFIG will need and take, without training and without its device.

    A mixture needs no downloads either: model.backbone=Llama-3.2-1B is the name of a shape, and --codec encodec-32k in
    place of a pack.

    Parameters, codes for each of them, who trains what, memory on a device and what every option would change, hours on
    known devices, checkpoints on the disk; and what all that means.
    """
    from partimento.config import CodesConfig, load
    from partimento.lab.plan import plan
    from partimento.lab.plan.text import sections

    settings = load(config, overrides)
    if hours is not None and codec is None:
        raise click.UsageError("--hours means nothing without --codec: the pack is counted")
    if codec is not None and measure:
        raise click.UsageError("--measure needs the pack: leave --codec out")
    if codec is not None and not isinstance(settings, CodesConfig):
        raise click.UsageError(f"--codec means nothing for {settings.family}, which reads sound")
    with progress(quiet) as display:
        found = plan(
            settings,
            devices=devices,
            memory=memory,
            flops=flops,
            measure=measure,
            codec=codec,
            hours=hours,
            progress=display,
        )
    parts = [f"{title}\n{_rows(head, rows)}" for title, head, rows in sections(found)]
    told = [
        f"{one.level:<4}  {one.text}: {one.why}" + (f"\n      next: {one.next}" if one.next else "")
        for one in found.advice
    ]
    result(found.to_json(), as_json, "\n\n".join([*parts, "advice\n" + "\n".join(told or ["nothing to say"])]))


def _rows(head: list[str], rows: list[list[object]]) -> str:
    """A table, without its head where that says nothing."""
    text = table(head, rows)
    return text if any(head) else "\n".join(text.split("\n")[2:])

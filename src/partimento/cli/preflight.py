"""`partimento preflight`: checks before a run."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import failed, json_option, lines, progress, quiet_option, result
from partimento.errors import PartimentoError

MARKS = {"ok": "ok    ", "warn": "warn  ", "failed": "FAILED", "skipped": "-     "}


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--overfit", "learn", is_flag=True, help="Learn one clip by heart; it must come back code for code.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of the clip for --overfit.")
@click.option("--minutes", default=5.0, show_default=True, help="Time that --overfit may take.")
@click.option("--run", "run_id", help="Id of a run that is to be resumed: is it of this data and configuration?")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs go.")
@quiet_option
@json_option
def command(
    config: Path,
    overrides: tuple[str, ...],
    learn: bool,
    seconds: float,
    minutes: float,
    run_id: str | None,
    runs: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Check CONFIG before a long training: machine, data, model, conditions, a few real steps.

    Every check says what it measured, and each that failed its remedy. Warnings do not change the exit status. With
    --overfit the strongest check: a few seconds of one clip are learned until the greedy playing copies them exactly:
    training and playing then agree on pattern, mask, cache and condition.
    """
    from partimento.config import SoundConfig, load
    from partimento.lab import preflight

    loaded = load(config, overrides)
    if learn:
        if isinstance(loaded, SoundConfig):
            raise PartimentoError(
                "CONFIG003",
                f"--overfit plays codes; the family of {config} is {loaded.family}",
                next=f"partimento preflight {config}",
            )
        with progress(quiet) as display:
            found = preflight.overfit(loaded, seconds=seconds, minutes=minutes, progress=display)
        result(found.to_json(), as_json, lines(found.to_json()))
        return
    with progress(quiet) as display:
        checks = preflight.preflight(loaded, runs=runs, run=run_id, progress=display)
    wrong = [check for check in checks if check.status == "failed"]
    rows = [
        "\n        ".join(
            [
                f"{MARKS[check.status]}  {check.name}: {check.found}",
                *check.lines,
                *([f"remedy: {check.remedy}"] if check.remedy else []),
            ]
        )
        for check in checks
    ]
    values = {"checks": [check.to_json() for check in checks], "passed": not wrong}
    if not wrong:
        result(values, as_json, "\n".join(rows))
        return
    err = PartimentoError(
        "LAB007",
        f"{len(wrong)} of {len(checks)} checks failed: {', '.join(check.name for check in wrong)}",
        where=str(config),
        why=wrong[0].found,
        next=wrong[0].remedy,
    )
    failed(values, err, as_json, "\n".join(rows))

"""`partimento score`: objective figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result, table
from partimento.errors import PartimentoError

if TYPE_CHECKING:
    from partimento.lab.score import Score


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--against", help="Pack (folder or URL) whose codes the files are compared with.")
@click.option("--run", type=click.Path(path_type=Path), help="Run whose held-out figures are shown.")
@click.option("--codec", help="Codec of that pack, where the name that it gives does not find it.")
@click.option("--labels", is_flag=True, help="Estimate tempo, key and style, as the built-in band knows them.")
@quiet_option
@json_option
def command(
    paths: tuple[Path, ...],
    against: str | None,
    run: Path | None,
    codec: str | None,
    labels: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure audio files (folders are searched), their codes against a pack, and a run against its baselines.

    No trained judge is involved. "-" is a figure that is undefined for that sound; it is never counted as zero.
    """
    from partimento.lab.score import score

    with progress(quiet) as display:
        scores = score(paths, against=against, run=run, codec=codec, labels=labels, progress=display)
    if as_json:
        result({"scores": [one.to_json() for one in scores]}, as_json)
    else:
        click.echo(_text(scores))
    failed = [(one.name, one.error) for one in scores if one.error]
    if failed:
        name, error = failed[0]
        raise PartimentoError(
            "LAB008",
            f"{len(failed)} of {len(scores)} could not be scored",
            where=name,
            why=error["message"],
            next=f"partimento explain {error['code']}",
        )


def _text(scores: list[Score]) -> str:
    parts = [
        f"{one.name}: {one.verdict.sentence}" + (f"\n{one.verdict.remark}" if one.verdict.remark else "")
        for one in scores
        if one.verdict
    ]
    sounds: list[list[Any]] = [
        [
            one.name,
            one.measures.seconds,
            one.measures.loudness_lufs,
            one.measures.peak_dbfs,
            one.measures.crest_db,
            100 * one.measures.clipped_share,
            100 * one.measures.silent_share,
            one.measures.centroid_hz,
            one.measures.onsets_per_second,
        ]
        for one in scores
        if one.measures
    ]
    if sounds:
        head = ["file", "s", "LUFS", "peak dBFS", "crest dB", "clipped %", "silent %", "centroid Hz", "onsets/s"]
        parts.append(table(head, sounds))
    if any(one.labels for one in scores):
        heard = [(one.name, one.labels) for one in scores if one.measures]
        rows = [[name, *((found.tempo, found.key, found.style) if found else (None,) * 3)] for name, found in heard]
        parts.append(table(["labels (estimated)", "tempo bpm", "key", "style, as of the band"], rows))
    codes: list[list[Any]] = []
    for one in scores:
        if one.codes:
            for name, figures in ((one.name, one.codes.figures), ("  held-out music", one.codes.yardstick)):
                values = (figures.entropy_K, figures.coverage_K, figures.unigram_kl_K, figures.repetition_K)
                codes.append([name, *map(_mean, values), figures.repetition_frames])
    if codes:
        head = ["codes (means over books)", "entropy", "coverage", "unigram KL", "repetition", "frames repeated"]
        parts.append(table(head, codes))
    parts += [f"{one.name}: {one.error['code']} {one.error['message']}" for one in scores if one.error]
    return "\n\n".join(parts)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

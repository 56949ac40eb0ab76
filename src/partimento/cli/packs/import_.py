"""`partimento pack import`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import click

from partimento.cli.terminal import json_option, lines, progress, quiet_option, result
from partimento.errors import PartimentoError


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--to", "pack", required=True, type=click.Path(path_type=Path), help="Folder of the new pack.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "npq", "pt", "npy", "rows"]),
    default="auto",
    show_default=True,
    help="What the files are: NPQ (also as text), torch tensors, numpy arrays, Parquet rows.",
)
@click.option("--codec", help="The codec that made the codes; its books and rates are held against the files'.")
@click.option("--sample-rate", type=click.IntRange(1, 2**22), help="Samples per second, where no file says.")
@click.option("--frame-rate", help="Frames per second, where no file says: 50, or 44100/512.")
@click.option("--cardinality", type=click.IntRange(2, 65536), help="Codes of a book, where no file says.")
@click.option("--books", type=click.IntRange(1, 256), help="Take the clips of so many books, if there are several.")
@click.option(
    "--source-by",
    type=click.Choice(["auto", "stem", "file"]),
    default="auto",
    show_default=True,
    help="What is one source, where no label says: the stem that pieces of a song share, or each file.",
)
@click.option("--dry-run", is_flag=True, help="Read and count everything, write nothing.")
@quiet_option
@json_option
def command(
    source: Path,
    pack: Path,
    kind: str,
    codec: str | None,
    sample_rate: int | None,
    frame_rate: str | None,
    cardinality: int | None,
    books: int | None,
    source_by: str,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a pack of codes that another program made, a file or a folder.

    What is not imported is listed in rejects.jsonl with its reason. docs/convert.md has every format.
    """
    from partimento.codecs.imports import import_pack

    with progress(quiet) as display:
        report = import_pack(
            source,
            pack,
            kind=kind,
            codec=codec,
            sample_rate=sample_rate,
            frame_rate=_fraction(frame_rate),
            cardinality=cardinality,
            books=books,
            source_by=source_by,
            dry_run=dry_run,
            progress=display,
        )
    values = report.to_json()
    spec = values["codec"]
    shown = {
        **{name: values[name] for name in ("pack", "kind", "files", "clips", "seconds")},
        "codec": f"{spec['codec']}, {len(spec['cardinalities'])} books, {spec['layout']}",
        "rates": f"{spec['sample_rate']} Hz, {'/'.join(map(str, spec['frame_rate']))} frames/s",
        "assumed": values["assumed"] or "nothing",
        "sources by": values["grouped_by"],
        **{name: _counts(values[name]) for name in ("prompts", "notes", "rejects")},
    }
    if report.first_reject:
        shown["first reject"] = report.first_reject
    text = lines(shown) + ("" if dry_run else f"\nnext: partimento pack stats {pack}")
    result(values, as_json, text)


def _counts(counts: dict[str, int]) -> str:
    return "; ".join(f"{name}: {count}" for name, count in counts.items()) or "none"


def _fraction(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text)
        if 0 < rate <= 10**6:
            return rate
        why = "it must be positive, and a million at most"
    except (ValueError, ZeroDivisionError) as err:
        why = str(err)
    raise PartimentoError(
        "SYS006", f"{text!r} is not a frame rate", why=why, next="give it as 50, 86.1328125 or 44100/512"
    )

"""`partimento compare`: runs side by side, with what their differences are worth."""

from __future__ import annotations

from pathlib import Path

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result, table

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--by", metavar="SECTION.KEY", help="Hold only cells against each other that differ in this alone.")
@click.option("--to", "page", type=PATH, help="Page to write: verdicts, curves, sounds, offline.")
@click.option("--csv", "csv_file", type=PATH, help="Table to write, a row a run; pairs go beside it.")
@click.option("--docs", type=PATH, help="Markdown page to write, a section a pair.")
@quiet_option
@json_option
def command(
    runs: tuple[Path, ...],
    by: str | None,
    page: Path | None,
    csv_file: Path | None,
    docs: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare RUNS, or all runs in a folder: figures by what differs, seeds taken together, and a verdict a pair.

    Differences are taken on the same held-out clips and the same seeds, with 95 % intervals over both.
    """
    import shlex

    from partimento.lab.compared.compare import compare

    options = [("--by", by), ("--to", page), ("--csv", csv_file), ("--docs", docs)]
    line = ["partimento", "compare", *map(str, runs)]
    line += [str(part) for name, value in options if value is not None for part in (name, value)]
    with progress(quiet) as display:
        found = compare(runs, by=by, to=page, csv=csv_file, docs=docs, command=shlex.join(line), progress=display)
    result(found.to_json(), as_json, told(found))


def told(found: object) -> str:
    """A comparison for the terminal."""
    from partimento.lab.compared import text
    from partimento.lab.compared.compare import Comparison

    assert isinstance(found, Comparison)
    head, rows = text.table_of(found)
    made = "\n".join(filter(None, [table(head, [list(row) for row in rows]).rstrip(), text.alike(found)]))
    parts = [made, "\n".join(text.verdicts(found)) or "one cell: no pair"]
    return "\n\n".join([*parts, text.holm(found)]).rstrip()

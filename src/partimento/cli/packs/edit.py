"""`partimento pack edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from partimento.cli.terminal import json_option, lines, result

SHOWN = 5


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path), help="JSON lines, as `pack labels` writes them.")
@click.option("--aliases", type=click.Path(path_type=Path), help="TOML table [aliases] for the tags of all clips.")
@click.option("--why", required=True, help="The reason, kept in the pack's history.")
@click.option("--dry-run", is_flag=True, help="Show what would change only.")
@json_option
def command(pack: Path, labels: Path | None, aliases: Path | None, why: str, dry_run: bool, as_json: bool) -> None:
    """Change tags, captions, licences and origins in PACK. Codes are not touched.

    In the rows of --labels only the fields that are given change. Every edit is kept, with its reason, in the pack's
    history; the fingerprint changes only if tags do.
    """
    from partimento.tokens import edits, relabel, tags
    from partimento.tokens.licence import read
    from partimento.tokens.pack import Pack

    if labels is None and aliases is None:
        raise click.UsageError("give --labels FILE, --aliases FILE or both")
    opened = Pack.open(pack)
    found = relabel.changes(opened, labels, tags.read_aliases(aliases) if aliases else None)
    unclear = {change["licence"] for change in found.wanted.values() if change.get("licence")}
    unclear = {text for text in unclear if read(text) is None}
    values: dict[str, Any] = {
        "clips": len(found.wanted),
        "changes": found.by_field,
        "licences_not_understood": sorted(unclear),
        "written": bool(found.wanted) and not dry_run,
        "fingerprint": opened.fingerprint,
    }
    shown = [
        f"{clip}: {name} {found.before[clip][name]!r} -> {value!r}"
        for clip, change in list(found.wanted.items())[:SHOWN]
        for name, value in change.items()
    ]
    if dry_run:
        values["first"] = shown
    elif found.wanted:
        values["fingerprint"] = edits.edit(pack, found.wanted, why=why).fingerprint
    text = {
        "clips that change": f"{len(found.wanted)} of {len(opened.clips)}",
        "fields": ", ".join(f"{name} of {count}" for name, count in found.by_field.items()) or "none",
        "fingerprint": "changes with the tags" if dry_run and "tags" in found.by_field else values["fingerprint"],
    }
    if unclear:
        text["not understood"] = f"{len(unclear)} licence(s), such as {sorted(unclear)[0]!r}"
    done = "nothing is written yet: run it without --dry-run" if dry_run and found.wanted else ""
    result(values, as_json, "\n".join(filter(None, [lines(text), *(shown if dry_run else ()), done])))

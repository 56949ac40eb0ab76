"""`partimento tags`: the tags of a folder or pack, prompts that are missing, and lost prompts found again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from partimento.cli.terminal import json_option, lines, result, table

if TYPE_CHECKING:
    from partimento.codecs.audit import Audit

SHOWN = 20


@click.group()
def command() -> None:
    """List tags, find missing prompts, rebuild lost ones."""


@command.command("list")
@click.argument("where", metavar="FOLDER|PACK")
@click.option("--aliases", type=click.Path(path_type=Path), help="TOML table [aliases] to look through.")
@json_option
def list_(where: str, aliases: Path | None, as_json: bool) -> None:
    """Count the tags of a folder of recordings or of a pack, and show those that may be one (for an alias table)."""
    from partimento.tokens.spellings import alike

    found = _audit(where, aliases)
    pairs = alike(found.tags)
    values = {
        "recordings": found.recordings,
        "without": found.without,
        "tags": found.tags,
        "alike": [vars(pair) for pair in pairs],
    }
    parts = [lines({"recordings": found.recordings, "without tags or caption": found.without, "tags": len(found.tags)})]
    if found.tags:
        parts.append(table(["tag", "recordings"], [[tag, count] for tag, count in list(found.tags.items())[:SHOWN]]))
    if len(found.tags) > SHOWN:
        parts.append(f"... and {len(found.tags) - SHOWN} more (--json lists all)")
    if pairs:
        rows = [[pair.other, pair.other_count, pair.tag, pair.count, pair.why] for pair in pairs[:SHOWN]]
        parts.append("May be one:\n" + table(["tag", "count", "alias for", "count", "alike in"], rows))
        parts.append(
            'For those that are one, write a file of aliases: [aliases], then lines such as "voice" = "vocals"'
        )
    result(values, as_json, "\n\n".join(parts))


@command.command("audit")
@click.argument("where", metavar="FOLDER|PACK")
@json_option
def audit_(where: str, as_json: bool) -> None:
    """List the recordings that have neither tags nor a caption, by source."""
    found = _audit(where, None)
    facts = {
        "recordings": found.recordings,
        "without a prompt": found.without,
        "sources": ", ".join(f"{name} {count}" for name, count in found.sources.items()),
        "labels from": ", ".join(f"{kind} {count}" for kind, count in found.kinds.items()),
    }
    rows: list[list[object]] = [
        [source, len(names), ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")]
        for source, names in list(found.missing.items())[:SHOWN]
    ]
    text = lines(facts)
    if rows:
        text += "\n\n" + table(["source", "missing", "recordings"], rows)
    if len(found.missing) > SHOWN:
        text += f"\n... and {len(found.missing) - SHOWN} more sources (--json lists all)"
    result(found.to_json(), as_json, text)


@command.command("rebuild")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--from", "prompts", multiple=True, required=True, type=click.Path(path_type=Path), help="Prompts' folder."
)
@click.option("--apply", is_flag=True, help="Write FOLDER/tags.jsonl; without it, only show what would be written.")
@json_option
def rebuild_(folder: Path, prompts: tuple[Path, ...], apply: bool, as_json: bool) -> None:
    """Find lost prompts of the recordings (or .pt, .npq) in FOLDER by their names and add them to FOLDER/tags.jsonl.

    In each folder of prompts, below the recording's own subfolder and then at the top, these are searched: tags.jsonl,
    metadata.json, NAME.txt, NAME_prompt.txt, prompts/ and ../audio_prompts/. What is there already stays as it is;
    where two prompts differ, neither is written.
    """
    from partimento.codecs.audit import rebuild

    found = rebuild(folder, prompts, apply=apply)
    facts = {
        "found": len(found.rows),
        "kept as they are": found.kept,
        "conflicts": len(found.conflicts),
        "still missing": len(found.missing),
    }
    parts = [lines(facts)]
    parts += ["\n".join(f"{row['file']}: {', '.join(row['tags'])}" for row in found.rows[:SHOWN])]
    parts += ["\n".join(f"conflict {name}: {' | '.join(what)}" for name, what in list(found.conflicts.items())[:SHOWN])]
    parts += ["\n".join(f"missing {name}" for name in found.missing[:SHOWN])]
    if found.rows:
        parts += [f"written: {folder / 'tags.jsonl'}" if apply else "nothing is written yet: run it again with --apply"]
    result({**found.to_json(), "written": apply and bool(found.rows)}, as_json, "\n\n".join(filter(None, parts)))


def _audit(where: str, aliases: Path | None) -> Audit:
    """Of a pack (a URL, or a folder with pack.json), else of a folder of recordings."""
    from partimento.codecs import audit
    from partimento.tokens.store import is_far
    from partimento.tokens.tags import read_aliases

    known = read_aliases(aliases) if aliases else {}
    if is_far(where) or (Path(where) / "pack.json").exists():
        from partimento.tokens.pack import Pack

        return audit.audit(audit.in_pack(Pack.open(where), known))
    return audit.audit(audit.in_folder(Path(where), known))

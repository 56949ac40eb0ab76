"""`partimento pack select`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from partimento.cli.terminal import json_option, lines, progress, quiet_option, result


@click.command()
@click.argument("pack")
@click.option("--to", type=click.Path(path_type=Path), help="Folder of the new pack.")
@click.option("--with-tag", "with_tags", multiple=True, help="Clips that have this tag (given again: and this one).")
@click.option("--without-tag", "without_tags", multiple=True, help="No clips that have this tag.")
@click.option("--licence", help="Obligations that are acceptable: attribution,share-alike,non-commercial,... or none.")
@click.option("--split", "splits", multiple=True, type=click.Choice(["train", "valid"]), help="Only this split.")
@click.option("--dry-run", is_flag=True, help="Count only.")
@quiet_option
@json_option
def command(
    pack: str,
    to: Path | None,
    with_tags: tuple[str, ...],
    without_tags: tuple[str, ...],
    licence: str | None,
    splits: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a new pack of the clips in PACK that have these tags and licences. Each stays in its split.

    Tags are matched whole: "vocals" is not "no vocals". With --licence, clips without a licence or with one that cannot
    be parsed are left out. The new pack lists what was left out, with the reason, and names the pack it comes from.
    """
    from partimento.tokens import select
    from partimento.tokens.clips import SPLITS
    from partimento.tokens.licence import Allowed
    from partimento.tokens.pack import Pack

    if to is None and not dry_run:
        raise click.UsageError("give --to FOLDER, or --dry-run to count only")
    opened = Pack.open(pack)
    allowed = None if licence is None else Allowed.parse(licence)
    selection = select.Selection(with_tags, without_tags, allowed, splits or SPLITS)
    choice = selection.choose(opened)
    seconds = int(opened.clips.samples[choice.clips].sum(dtype="int64")) / opened.spec.sample_rate
    values: dict[str, Any] = {
        "clips": len(choice.clips),
        "of": len(opened.clips),
        "hours": seconds / 3600,
        "left_out": choice.left_out,
        "pack": None,
        "fingerprint": None,
    }
    if to is not None and not dry_run:
        with progress(quiet) as display:
            display.stage("select", "copy the codes of the clips chosen, shard by shard")
            values["fingerprint"] = select.write(opened, to, selection, display).fingerprint
        values["pack"] = str(to)
    text = {
        "clips": f"{len(choice.clips)} of {len(opened.clips)}",
        "hours": seconds / 3600,
        **{f"left out ({code})": f"{count}, {select.REASONS[code]}" for code, count in choice.left_out.items()},
    }
    result(values, as_json, lines(text) + ("" if dry_run else f"\nnext: partimento pack stats {to}"))

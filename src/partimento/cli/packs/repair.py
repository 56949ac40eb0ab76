"""`partimento pack repair`."""

from __future__ import annotations

from typing import Any

import click

from partimento.cli.terminal import json_option, progress, quiet_option, result
from partimento.errors import PartimentoError


def _numbers(_: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    try:
        return None if text is None else sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter("shards are named by numbers with commas between, such as 3,7", param=option) from None


@click.command()
@click.argument("pack")
@click.option("--drop", is_flag=True, help="Take the clips of the damaged shards out of the pack.")
@click.option("--from", "sources", multiple=True, metavar="SRC", help="Encode them again from these recordings.")
@click.option("--shards", callback=_numbers, metavar="N,N", help="These shards instead of those that are damaged.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@quiet_option
@json_option
def command(
    pack: str,
    drop: bool,
    sources: tuple[str, ...],
    shards: list[int] | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """List what is damaged in PACK and what each way to mend it would do; --drop or --from does it."""
    from partimento.tokens import repair
    from partimento.tokens.pack import Pack

    if drop and sources:
        raise PartimentoError("SYS006", "--drop and --from exclude each other", next="partimento pack repair --help")
    opened = Pack.open(pack)
    wrong = repair.damaged(opened) if shards is None else {}
    chosen = sorted(wrong) if shards is None else shards
    if chosen and shards is not None:
        unknown = [number for number in chosen if number not in opened.shards]
        if unknown:
            repair.require(opened, unknown)
    found: dict[str, Any] = {
        "pack": pack,
        "shards": chosen,
        "clips": sum(opened.shards[number].clips for number in chosen),
        "hours": round(_hours(opened, chosen), 4),
        "damage": [err.to_json() for errs in wrong.values() for err in errs],
        "done": None,
        "fingerprint": opened.fingerprint,
    }
    if chosen and not dry_run and (drop or sources):
        if drop:
            mended = repair.drop(pack, chosen)
        else:
            from partimento.codecs import encode

            with progress(quiet) as shown:
                encode.repair(pack, list(sources), shards=chosen, progress=shown)
            mended = Pack.open(pack)
        found |= {"done": "dropped" if drop else "encoded again", "fingerprint": mended.fingerprint}
    result(found, as_json, _text(found, drop, bool(sources)))


def _hours(opened: Any, chosen: list[int]) -> float:
    return sum(opened.spec.seconds(opened.shards[number].frames) for number in chosen) / 3600


def _text(found: dict[str, Any], drop: bool, sources: bool) -> str:
    from partimento.tokens.store import is_folder

    pack, shards = found["pack"], ", ".join(map(str, found["shards"]))
    if not found["shards"]:
        return f"{pack}: no shard is damaged"
    lines = [f"{one['code']}  {one['where']}  {one['why']}" for one in found["damage"]]
    what = f"shards {shards}: {found['clips']} clips, {found['hours']:g} hours"
    if found["done"]:
        return "\n".join([*lines, f"{found['done']}: {what}; the fingerprint is {found['fingerprint'][:12]} now"])
    lines.append(what)
    if not is_folder(pack):
        lines.append(f"partimento pack copy FOLDER --to {pack}  writes it anew from a whole copy of this pack")
        return "\n".join(lines)
    if drop or not sources:
        lines.append(f"partimento pack repair {pack} --drop      takes these clips out; the fingerprint changes")
    if sources or not drop:
        lines.append(f"partimento pack repair {pack} --from SRC  encodes them again; equal codes, equal fingerprint")
    return "\n".join(lines)

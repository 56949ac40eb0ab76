"""`partimento pack verify`."""

from __future__ import annotations

import click

from partimento.cli.terminal import failed, json_option, result
from partimento.errors import PartimentoError


@click.command()
@click.argument("pack")
@click.option("--quick", is_flag=True, help="Sizes and headers only, no hashes.")
@json_option
def command(pack: str, quick: bool, as_json: bool) -> None:
    """Check every file of PACK against its recorded hash and list all that is wrong."""
    from partimento.tokens.verify import verify as check

    found = check(pack, full=not quick)
    if found.ok:
        how = "sizes and headers" if quick else "every hash"
        text = f"{pack} is whole: {found.clips} clips in {found.shards} shards, {how} checked"
        result(found.to_json(), as_json, text)
        return
    first = found.damage[0]
    err = PartimentoError(
        "PACK021",
        f"{len(found.damage)} piece(s) of {pack} are damaged",
        where=str(pack),
        why=f"{first['message']}: {first['why']}",
        next=first["next"],
    )
    text = "\n".join(f"{one['code']}  {one['message']}  ({one['why']})" for one in found.damage)
    failed(found.to_json(), err, as_json, text)

"""`partimento explain`: what an error code means."""

from __future__ import annotations

import difflib

import click

from partimento.cli.terminal import json_option, result, table
from partimento.errors import EXIT_STATUS, PartimentoError, explanations


@click.command()
@click.argument("code", required=False)
@json_option
def command(code: str | None, as_json: bool) -> None:
    """Explain an error CODE such as PACK004; without a code, list them all."""
    known = explanations()
    if code is None:
        rows = [[e.code, e.kind, e.title] for e in known.values()]
        listed = {"codes": [{"code": e.code, "kind": e.kind, "title": e.title} for e in known.values()]}
        result(listed, as_json, table(["code", "class", "title"], rows))
        return
    found = known.get(code.upper())
    if found is None:
        near = difflib.get_close_matches(code.upper(), known, n=1)
        raise PartimentoError(
            "SYS005",
            f"there is no error code {code!r}" + (f"; did you mean {near[0]}?" if near else ""),
            next="partimento explain",
        )
    values = {"code": found.code, "class": found.kind, "title": found.title, "text": found.text}
    status = EXIT_STATUS[found.kind]
    result(
        {**values, "exit_status": status},
        as_json,
        f"{found.code}: {found.title}\n\n{found.text}\n\nclass {found.kind}, exit status {status}",
    )

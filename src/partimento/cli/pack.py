"""`partimento pack`: look into packs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from partimento.cli.terminal import json_option, lines, result, table
from partimento.errors import PartimentoError

pack_argument = click.argument("pack", type=click.Path(path_type=Path))


@click.group()
def command() -> None:
    """Inspect, verify and measure packs."""


@command.command()
@pack_argument
@json_option
def inspect(pack: Path, as_json: bool) -> None:
    """Print what PACK says of itself, without reading its codes."""
    from partimento.tokens.pack import inspect as look

    found = look(pack)
    result(found, as_json, json.dumps(found, indent=1, default=str))


@command.command()
@pack_argument
@click.option("--quick", is_flag=True, help="Sizes and headers only, no hashes.")
@json_option
def verify(pack: Path, quick: bool, as_json: bool) -> None:
    """Check every file of PACK against its recorded hash and list all that is wrong."""
    from partimento.tokens.pack import verify as check

    found = check(pack, full=not quick)
    if found.ok:
        how = "sizes and headers" if quick else "every hash"
        text = f"{pack} is whole: {found.clips} clips in {found.shards} shards, {how} checked"
        result(found.to_json(), as_json, text)
        return
    first = found.damage[0]
    if as_json:
        result(found.to_json(), as_json)
    else:
        click.echo("\n".join(f"{one['code']}  {one['message']}  ({one['why']})" for one in found.damage))
    raise PartimentoError(
        "PACK021",
        f"{len(found.damage)} piece(s) of {pack} are damaged",
        where=str(pack),
        why=f"{first['message']}: {first['why']}",
        next=first["next"],
    )


@command.command()
@pack_argument
@json_option
def stats(pack: Path, as_json: bool) -> None:
    """Hours, clips, tags, use of each codebook, and the baselines that a model must beat."""
    from partimento.tokens.pack import Pack
    from partimento.tokens.stats import stats as measure

    found = measure(Pack.open(pack))
    if as_json:
        result(found.to_json(), as_json)
        return
    splits = [f"{name} {split['clips']} clips" for name, split in found.splits.items()]
    top = [f"{tag} ({count})" for tag, count in list(found.tags.items())[:12]]
    facts = {
        "pack": found.path,
        "codec": found.codec,
        "hours": found.hours,
        "splits": "; ".join(splits),
        "seconds a clip": f"{found.shortest_seconds:g} to {found.longest_seconds:g}, median {found.median_seconds:g}",
        "tags": ", ".join(top) + (f" and {len(found.tags) - 12} more" if len(found.tags) > 12 else "") or "none",
        "untagged clips": found.untagged,
        "rejected files": ", ".join(f"{code} {count}" for code, count in found.rejects.items()) or "none",
    }
    rows: list[list[object]] = []
    for book in found.usage:
        row: list[object] = [book.book + 1, book.coverage, book.perplexity, book.entropy, book.share]
        if found.baselines:
            row += [found.baselines.unigram_ce_K[book.book], found.baselines.bigram_ce_K[book.book]]
        rows.append(row)
    head = ["book", "coverage", "perplexity", "entropy (nats)", "of maximum"]
    text = lines(facts) + "\n\n"
    if found.baselines:
        head += ["unigram (nats)", "bigram (nats)"]
        text += (
            f"held-out bits per second of audio: unigram {found.baselines.unigram_bits_per_second:,.0f}, "
            f"bigram {found.baselines.bigram_bits_per_second:,.0f}\n\n"
        )
    click.echo(text + table(head, rows))

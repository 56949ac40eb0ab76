"""`partimento pack stats`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from partimento.cli.terminal import Real, json_option, lines, progress, quiet_option, result, table

if TYPE_CHECKING:
    from partimento.tokens.stats import PackStats

KINDS = {"uniform": "noise", "orderless": "no order", "constant": "constant", "ordered": "", "unknown": "?"}
LEVELS = {"bad": "BAD ", "warn": "warn", "note": "note"}


@click.command()
@click.argument("pack")
@click.option(
    "--sample", type=click.IntRange(min=2), help="Clips whose codes are read; by default all up to 300 hours."
)
@click.option("--window", type=click.IntRange(min=1), default=256, show_default=True, help="Grid steps of the draw.")
@click.option("--pattern", default="delay", show_default=True, help="Pattern of the draw: delay, parallel, flat, dia.")
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
@click.option("--epochs", type=Real(min=0, min_open=True), default=1.0, show_default=True, help="Length of the draw.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write one HTML page with plots; it works offline.")
@json_option
@quiet_option
def command(
    pack: str,
    sample: int | None,
    window: int,
    pattern: str,
    seed: int,
    epochs: float,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """What is in PACK, what is wrong with it, and the baselines that a model must beat."""
    from partimento.tokens.pack import Pack
    from partimento.tokens.stats import stats

    with progress(quiet) as bars:
        found = stats(
            Pack.open(pack), sample=sample, window=window, pattern=pattern, seed=seed, epochs=epochs, progress=bars
        )
    if html is not None:
        from partimento.lab.datapage import datapage

        datapage(found, html)
    result(found.to_json(), as_json, _text(found) + (f"\n\npage  {html}" if html else ""))


def _text(found: PackStats) -> str:
    parts = [lines(_facts(found)), _books(found)]
    if found.duplicates.listed:
        head = ["near-duplicates", "", "splits", "shared", "seconds"]
        rows: list[list[object]] = [
            [pair.first, pair.second, "/".join(dict.fromkeys(pair.splits)), pair.share, pair.seconds]
            for pair in found.duplicates.listed[:10]
        ]
        parts.append(table(head, rows))
    if found.tag_pairs:
        pairs: list[list[object]] = [
            [_short(pair.first), _short(pair.second), pair.clips, pair.lift] for pair in found.tag_pairs[:8]
        ]
        parts.append(table(["tags together", "", "clips", "lift"], pairs))
    said = [
        f"{LEVELS[one.level]}  {one.text}" + (f"\n      next: {one.next}" if one.next else "") for one in found.findings
    ]
    parts.append("\n".join(said) or "nothing is wrong that these statistics can see")
    return "\n\n".join(parts)


def _facts(found: PackStats) -> dict[str, object]:
    still, copies, drawn = found.silence, found.duplicates, found.draw
    top = [f"{_short(tag)} ({count})" for tag, count in list(found.tags.items())[:12]]
    splits = [f"{name} {split['clips']} clips" for name, split in found.splits.items()]
    licences = [f"{_short(row.licence or 'none given')} ({row.clips})" for row in found.licences[:6]]
    facts: dict[str, object] = {
        "pack": found.path,
        "codec": f"{found.codec}, {found.spec['layout']}, {len(found.spec['cardinalities'])} books",
        "hours": found.hours,
        "clips": f"{found.clips} from {found.sources['count']} sources; " + ", ".join(splits),
    }
    if not found.sample.whole:
        facts["codes read of"] = f"{found.sample.clips} clips, {found.sample.hours:.0f} hours (a keyed sample)"
    if found.seconds:
        spread = found.seconds.quantiles
        facts["seconds a clip"] = f"{spread['0']:g} to {spread['100']:g}, median {spread['50']:g}"
    facts |= {
        "tags": ", ".join(top) + (f" and {len(found.tags) - 12} more" if len(found.tags) > 12 else "") or "none",
        "untagged clips": found.untagged,
        "licences": ", ".join(licences) + (" ..." if len(found.licences) > 6 else ""),
        "rejected files": ", ".join(f"{code} {count}" for code, count in found.rejects.items()) or "none",
        "standing still": f"{100 * still.share:.1f} % of the frames; {still.leading} clips begin so, "
        f"{still.trailing} end so",
        "shared openings": f"{still.shared_openings} clips begin like a clip of another source",
        "near-duplicates": f"{copies.pairs} pairs among {copies.clips} clips; {copies.leaks} held-out clips leak",
    }
    if drawn is not None:
        facts["draw"] = (
            f"{drawn.items} windows of {drawn.window} steps ({drawn.epochs:.3g} epochs): "
            f"{100 * drawn.never_share:.1f} % of the frames never drawn, {drawn.short_clips} clips shorter than one"
        )
    if found.baselines:
        facts["held-out bits/s"] = (
            f"unigram {found.baselines.unigram_bits_per_second:,.0f}, "
            f"bigram {found.baselines.bigram_bits_per_second:,.0f}: a model must be under these"
        )
    return facts


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _books(found: PackStats) -> str:
    head = ["book", "coverage", "perplexity", "entropy", "of maximum", "given the last", "order", "noise"]
    if found.baselines:
        head += ["unigram CE", "bigram CE"]
    rows: list[list[object]] = []
    for book in found.usage:
        known = next(iter(book.splits.values())).bigram_entropy if book.splits else None
        row: list[object] = [book.book + 1, book.coverage, book.perplexity, book.entropy, book.share, known]
        row += [book.verdict.order, KINDS[book.verdict.kind]]
        if found.baselines:
            row += [found.baselines.unigram_ce_K[book.book], found.baselines.bigram_ce_K[book.book]]
        rows.append(row)
    return table(head, rows) + "\n(nats; order: how much more often pairs of codes return than if shuffled)"

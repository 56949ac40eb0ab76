"""A comparison as a page of documentation: Markdown with the command that made it and a section for each pair."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from partimento.errors import PartimentoError
from partimento.lab.compared import text
from partimento.lab.compared.cells import told
from partimento.lab.compared.compare import Comparison
from partimento.lab.compared.figures import columns
from partimento.lab.compared.pairs import Pair, differences

STATED = ("model.width", "model.layers", "model.net", "data.window", "data.crop", "optim.batch", "train.steps")
WIDTH = 120
BY_HAND, END = "<!-- by hand: kept when this page is written again -->", "<!-- end of by hand -->"


def document(found: Comparison, command: str | None = None, old: str = "") -> str:
    """The page. What is empty in it was not logged. What a hand wrote at the head of the `old` one is kept."""
    lines = [f"# {_title(found)}", "", _by_hand(old), ""]
    if command:
        lines += ["Written by its command:", "", "```", command, "```", ""]
    lines += [*setup(found), "", *_table(found), ""]
    for name, title in (("ce", "Nats a code by book, held out"), ("entropy", "Output entropy by book, nats")):
        if not found.sound and (books := text.books_of(found, name)):
            lines += [f"{title}:", "", *markdown(*books), ""]
    lines += ["## What it says", "", *(f"- {line}." for line in text.verdicts(found)), ""]
    if note := text.holm(found):
        lines += [note, ""]
    for pair in found.pairs:
        lines += [*_section(found, pair)]
    if found.notes:
        lines += ["## To be known", "", *(f"- {note}" for note in found.notes), ""]
    return "\n".join("\n".join([line] if line == command else wrapped(line)) for line in lines).rstrip() + "\n"


def written_before(place: Path) -> str:
    """The document at `place`, or nothing. A page that no comparison wrote is somebody's own: LAB079."""
    if not place.is_file():
        return ""
    old = place.read_text(encoding="utf-8", errors="replace")
    if BY_HAND not in old or END not in old:
        raise PartimentoError(
            "LAB079",
            f"{place.name} was not written by a comparison",
            where=str(place),
            why=f"it has not the line {BY_HAND}",
            next=f"mv {shlex.quote(str(place))} {shlex.quote(str(place.with_suffix('.old.md')))}",
        )
    return old


def _by_hand(old: str) -> str:
    """As it was: not even its lines are broken anew."""
    return BY_HAND + (old.partition(BY_HAND)[2].partition(END)[0] or "\n") + END


def wrapped(line: str) -> list[str]:
    """Prose in lines of 120; tables and headings as they are."""
    if line.startswith(BY_HAND):
        return [line]
    if line[:2] == "- ":
        return textwrap.wrap(line, WIDTH, subsequent_indent="  ")
    return textwrap.wrap(line, WIDTH) if line[:1] not in ("|", "#", "") else [line]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _title(found: Comparison) -> str:
    return "Compared: " + (", ".join(found.keys) if found.keys else "runs that differ in the seed alone")


def setup(found: Comparison) -> Iterator[str]:
    """What was trained, what varied, and what it was judged on, as paragraphs."""
    first = found.cells[0].first
    seeds = sorted({seed for cell in found.cells for seed in cell.runs})
    same = [f"{key} = {told(first.settings[key])}" for key in STATED if key in first.settings and key not in found.keys]
    yield (
        f"{len(found.cells)} cells of the family {first.run.record['family']}, seeds {', '.join(map(str, seeds))};"
        f" the same for all: {', '.join(same)}. What varies: {', '.join(found.keys) or 'the seed'}. What is drawn is a"
        " function of the seed, so runs of one seed met their data in the same order."
    )
    judged = [(cell.changes.get("data", ""), cell.first.items) for cell in found.cells]
    held = {data: kept.items for data, kept in judged if kept is not None}
    for data, items in held.items():
        clips, sources = len(set(items.clips)), len(set(items.sources))
        what = f"{clips} items" if found.sound else f"{sum(items.sizes):,.0f} codes of {clips} clips"
        yield ""
        yield f"Held out{f' of {data}' if data else ''}: {what} of {sources} sources."


def _table(found: Comparison) -> Iterator[str]:
    yield "Means over the seeds with half of the 95 % interval (Student's t):"
    yield ""
    yield from markdown(*text.table_of(found))
    if alike := text.alike(found):
        yield ""
        yield alike


def _section(found: Comparison, pair: Pair) -> Iterator[str]:
    yield f"## {pair.title[:1].upper()}{pair.title[1:]}"
    yield ""
    sentence = pair.verdict
    yield f"{sentence[:1].upper()}{sentence[1:]}."
    yield ""
    yield from markdown(["", ""], [list(row) for row in text.numbers(pair)])
    named = columns(found.sound)
    by_name = {cell.name: cell for cell in found.cells}
    one, two = by_name[pair.first], by_name[pair.second]
    shown = {name: named[name] for name in found.varied if name not in ("bigram", "input")}
    apart = differences(one, two, shown)
    if apart:
        yield ""
        yield "Figure by figure, whole runs of the same seeds:"
        yield ""
        rows = [
            [
                shown[name].title,
                text.spread(found.row(one, name), shown[name].form),
                text.spread(found.row(two, name), shown[name].form),
                text.spread(value, "+" + shown[name].form.lstrip("+")),
            ]
            for name, value in apart.items()
        ]
        yield from markdown(["", pair.first, pair.second, "difference"], rows)
    yield ""

"""The table of what was played from nothing: prompts and seeds as rows; weights, temperature, guidance as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Entry = Mapping[str, Any]
WEIGHTS = {"ema": "EMA weights", "raw": "raw weights"}


@dataclass(frozen=True)
class Cell(Generic[Item]):
    """`item` is None where nothing was played, and `why` says so; `rows` it reaches over (greedy: all seeds)."""

    item: Item | None
    rows: int = 1
    why: str = ""


@dataclass(frozen=True)
class Row(Generic[Item]):
    """One prompt ("": nothing) and seed; the first of the `rows` rows of a prompt names it."""

    prompt: str
    first: bool
    rows: int
    seed: str
    cells: list[Cell[Item]]


@dataclass(frozen=True)
class Head:
    """A temperature of one set of weights, with a column for each guidance."""

    title: str
    weights: str
    guidance: list[str]


@dataclass(frozen=True)
class Table(Generic[Item]):
    heads: list[Head]
    rows: list[Row[Item]]

    @property
    def columns(self) -> int:
        return sum(len(head.guidance) for head in self.heads)


def table(items: Sequence[tuple[Entry, Item]]) -> Table[Item]:
    """Any items as a table: what was asked twice stands in a row of its own, what is not recorded in a column."""
    columns = sorted({_column(entry) for entry, _ in items}, key=_order)
    prompts: dict[str, dict[tuple[str, int], dict[tuple[Any, ...], Item]]] = {}
    for entry, item in items:
        rows = prompts.setdefault(told(entry), {})
        seed, again = str(entry.get("seed", "not recorded")), 0
        while _column(entry) in rows.get((seed, again), {}):
            again += 1
        rows.setdefault((seed, again), {})[_column(entry)] = item
    heads: dict[tuple[Any, ...], list[str]] = {}
    for weights, temperature, scale in columns:
        name = "guidance not recorded" if scale is None else f"guidance {scale:g}"
        heads.setdefault((weights, temperature), []).append(name)
    made = []
    for prompt in sorted(prompts, key=lambda name: name == ""):  # what was told nothing comes last
        made += _rows(prompt, prompts[prompt], columns)
    return Table(
        [
            Head(temperature_name(temperature), WEIGHTS.get(weights, "weights not recorded"), names)
            for (weights, temperature), names in heads.items()
        ],
        made,
    )


def _rows(
    prompt: str, rows: Mapping[tuple[str, int], Mapping[tuple[Any, ...], Item]], columns: Sequence[tuple[Any, ...]]
) -> list[Row[Item]]:
    seeds = sorted(rows, key=lambda seed: (seed[0].zfill(20), seed[1]))
    made = []
    for place, seed in enumerate(seeds):
        cells: list[Cell[Item]] = []
        for column in columns:
            there = [rows[other][column] for other in seeds if column in rows[other]]
            if column[1] == 0 and len(there) == 1:  # greedy, the same for every seed
                if place == 0:
                    cells.append(Cell(there[0], len(seeds)))
            elif column in rows[seed]:
                cells.append(Cell(rows[seed][column]))
            else:
                unguided = not prompt and column[2] not in (None, 1.0)
                cells.append(Cell(None, why="nothing to guide to" if unguided else "not played"))
        made.append(Row(prompt, place == 0, len(seeds), seed[0], cells))
    return made


def told(entry: Entry) -> str:
    """What an item was told, as a line; "" for nothing. Older demos had tags alone."""
    words = entry.get("words")
    tags = (words if isinstance(words, Mapping) else entry).get("tags")
    line = ", ".join(map(str, tags)) if isinstance(tags, list) else ""
    text = str(words.get("text") or "") if isinstance(words, Mapping) else ""
    return " | ".join(part for part in (line, text) if part)


def number(value: Any) -> float | None:
    """A number of demos.json; anything else counts as not recorded."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def temperature_name(value: float | None) -> str:
    return "Temperature not recorded" if value is None else f"Temperature {value:g}"


def _column(entry: Entry) -> tuple[Any, ...]:
    return str(entry.get("weights")), number(entry.get("temperature")), number(entry.get("guidance"))


def _order(column: tuple[Any, ...]) -> tuple[Any, ...]:
    weights, temperature, guidance = column
    return (
        list(WEIGHTS).index(weights) if weights in WEIGHTS else len(WEIGHTS),
        weights,
        *((value is None, value or 0.0) for value in (temperature, guidance)),
    )

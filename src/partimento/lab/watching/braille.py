"""Curves in the dots of braille letters (U+2800): two by four to a character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True)
class Stroke:
    """A curve {step: value}; or a level, where `points` holds one value for all steps (key -1), drawn dotted."""

    points: Mapping[int, float]
    style: str


@dataclass(frozen=True)
class Drawing:
    """Rows of (character, style), the values at the top and bottom edge, and whether the highest were cut off."""

    rows: list[list[tuple[str, str]]]
    top: float
    bottom: float
    cut: bool


def draw(strokes: Sequence[Stroke], width: int, height: int) -> Drawing | None:
    """All strokes in one frame of so many characters; None where there is nothing to draw.

    Where the highest fiftieth of every curve is far above the rest (the first steps), it is cut off, and `cut` says so.
    """
    curves = [stroke for stroke in strokes if stroke.points and -1 not in stroke.points]
    if not curves:
        return None
    steps = [step for stroke in curves for step in stroke.points]
    first, last = min(steps), max(steps)
    values_S = [sorted(stroke.points.values()) for stroke in curves]
    # Of each curve by itself: a few validations are not the highest fiftieth of many lines of the log.
    usual = max(values[min(len(values) - 1, int(0.98 * len(values)))] for values in values_S)
    highest, lowest = max(values[-1] for values in values_S), min(values[0] for values in values_S)
    levels = [stroke.points[-1] for stroke in strokes if -1 in stroke.points]
    bottom = min([lowest, *levels])
    cut = highest - bottom > 1.5 * (usual - bottom) > 0
    top = max([usual if cut else highest, *levels])
    if top == bottom:
        top, bottom = top + 0.5, bottom - 0.5
    dots = [[0] * width for _ in range(height)]
    styles = [[""] * width for _ in range(height)]

    def dot(x: int, y: int, style: str) -> None:
        dots[y // 4][x // 2] |= _BITS[y % 4][x % 2]
        styles[y // 4][x // 2] = style

    def row_of(value: float) -> int:
        share = (min(max(value, bottom), top) - bottom) / (top - bottom)
        return round((1 - share) * (4 * height - 1))

    for stroke in strokes:
        if -1 in stroke.points:
            for x in range(0, 2 * width, 3):
                dot(x, row_of(stroke.points[-1]), stroke.style)
            continue
        columns: dict[int, list[float]] = {}
        for step, value in stroke.points.items():
            x = round((step - first) / (last - first) * (2 * width - 1)) if last > first else width
            columns.setdefault(x, []).append(value)
        before: tuple[int, int] | None = None
        for x, found in sorted(columns.items()):
            y = row_of(sum(found) / len(found))
            for between, at in _line(before, (x, y)):
                dot(between, at, stroke.style)
            before = (x, y)
    rows = [
        [(chr(0x2800 + bits) if bits else " ", style) for bits, style in zip(*pair, strict=True)]
        for pair in zip(dots, styles, strict=True)
    ]
    return Drawing(rows, top, bottom, cut)


def _line(start: tuple[int, int] | None, end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots from `start` (without it) to `end`."""
    if start is None:
        return [end]
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * i / count), round(start[1] + (end[1] - start[1]) * i / count))
        for i in range(1, count + 1)
    ]

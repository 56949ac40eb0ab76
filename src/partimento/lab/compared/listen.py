"""The grid of what the runs played: a row for each thing that was asked for, a column for each cell."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.audio.files import read
from partimento.errors import PartimentoError
from partimento.lab.compared.cells import Cell, One
from partimento.lab.compared.figures import played_of
from partimento.lab.demotable import temperature_name, told
from partimento.lab.gallery import MIME
from partimento.lab.pictures import spectrogram_png, waveform_path
from partimento.runs import demos

PICTURE = (300, 75)


@dataclass(frozen=True)
class Sound:
    """`audio` is a data URI; None where there is nothing to hear, and `why` says so."""

    title: str
    audio: str | None = None
    spectrogram: str | None = None
    outline: str | None = None
    why: str | None = None
    size: int = 0


@dataclass(frozen=True)
class Grid:
    """`rows`: (what was asked for, a sound for each of `columns`); `given` are the rows that are the same for all."""

    columns: list[str]
    rows: list[tuple[str, list[Sound]]]
    step: list[int | None]


def grid(found: Sequence[Cell], budget: int) -> Grid:
    """Of the first seed of every cell, the newest demos, while `budget` bytes of audio last."""
    asked: dict[str, list[Sound]] = {}
    steps: list[int | None] = []
    for column, cell in enumerate(found):
        step, items, folder = _newest(cell.first)
        steps.append(step)
        for name, item in items:
            row = asked.setdefault(name, [Sound(one.name, why="not played") for one in found])
            if row[column].audio is None and folder is not None:
                sound = _sound(cell.name, folder / item["file"], budget)
                budget -= sound.size
                row[column] = sound
    return Grid([cell.name for cell in found], sorted(asked.items()), steps)


def _newest(one: One) -> tuple[int | None, list[tuple[str, dict[str, Any]]], Path | None]:
    folders = sorted(path for path in one.run.demos_path.glob("step-*/") if (path / demos.NAME).is_file())
    if not folders:
        return None, [], None
    try:
        sheet = demos.read(folders[-1])
    except PartimentoError:
        return None, [], None  # the figures of the demos say why, in the notes
    items = played_of(sheet.items, one.figures.weights)
    return sheet.step, [(_asked(item), item) for item in items], folders[-1]


def _asked(item: dict[str, Any]) -> str:
    """What makes two sounds answers to the same question."""
    if item.get("kind") in ("output", "reconstruction"):
        shift = item.get("semitones")
        return str(item.get("prompt") or "recording") + (
            f", {shift:+g} semitones" if isinstance(shift, int | float) else ""
        )
    parts = [told(item) or "nothing told", temperature_name(item.get("temperature"))]
    scale = item.get("guidance")
    parts += [f"guidance {scale:g}"] if isinstance(scale, int | float) and scale != 1 else []
    return ", ".join([*parts, f"seed {item.get('seed', 'not recorded')}"])


def _sound(title: str, path: Path, budget: int) -> Sound:
    size = path.stat().st_size if path.is_file() else 0
    if size > budget:
        return Sound(title, why=f"left out for its size ({size / 1e6:.1f} MB): {path}")
    try:
        heard = read(path)
    except PartimentoError as err:
        return Sound(title, why=f"{err.message} ({err.code})")
    if not heard.wave_CN.shape[1]:
        return Sound(title, why="nothing was played: the file is empty")
    kind = MIME.get(path.suffix, "audio/flac")
    return Sound(
        title,
        audio=f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}",
        spectrogram=spectrogram_png(heard.wave_CN, heard.sample_rate, PICTURE),
        outline=waveform_path(heard.wave_CN),
        size=size,
    )

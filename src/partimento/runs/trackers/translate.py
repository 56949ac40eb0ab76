"""Events as trackers understand them: numbers by name, texts, sounds. The same while a run trains and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.runs import demos
from partimento.runs.events import Event
from partimento.runs.trackers.tracker import Tracker

NUMBERS = {"train", "valid", "baseline", "demo_data", "demo_figures"}
TEXTS = {"note", "alarm", "rollback", "halt", "hypothesis", "resume", "end"}
_COMMON = {"kind", "step", "time", "weights", "temperature", "guidance", "told"}


def send(tracker: Tracker, event: Event, run: Path) -> None:
    """Tell `tracker` one event of the run at the folder `run`; kinds that are no reading are nothing to it."""
    kind, step, time = event["kind"], event["step"], event.get("time")
    if time is None:  # a torn line
        return
    if kind in NUMBERS:
        figures = dict(numbers(event))
        if figures:
            tracker.figures(step, time, figures)
    elif kind in TEXTS:
        tracker.text(step, time, kind, text(event))
    elif kind == "demo":
        _sounds(tracker, step, time, run, str(event.get("path")))


def numbers(event: Event) -> Iterator[tuple[str, float]]:
    """(name, value) of all finite numbers, e.g. valid_ema/bits_per_second, and valid_ema/ce/1 for the first of ce_K."""
    place = event["kind"]
    if event.get("weights"):
        place += f"_{event['weights']}"
    if event["kind"] == "demo_figures":
        place += f"_t{event.get('temperature')}_g{event.get('guidance')}{'' if event.get('told') else '_untold'}"
    for name, value in event.items():
        if name in _COMMON:
            continue
        if isinstance(value, list):
            stem = name.removesuffix("_K")
            yield from ((f"{place}/{stem}/{book}", float(v)) for book, v in enumerate(value, 1) if _is_number(v))
        elif _is_number(value):
            yield f"{place}/{name}", float(value)


def text(event: Event) -> str:
    """One line of an event that is no figure."""
    values: Mapping[str, Any] = {k: v for k, v in event.items() if k not in _COMMON and v is not None}
    if event["kind"] == "alarm":
        return f"{values.get('alarm')}: {values.get('text')} What helps: {values.get('remedy')}"
    if len(values) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sounds(tracker: Tracker, step: int, time: float, run: Path, place: str) -> None:
    folder = (run / place).resolve()
    if not folder.is_relative_to(run.resolve()):
        raise PartimentoError("RUN011", "the log names demos outside of its run", where=place)
    if not folder.exists():  # a rollback set them aside
        return
    import soundfile

    for item in demos.read(folder).items:
        file = folder / Path(item["file"]).name
        if not file.is_file():
            tracker.text(step, time, "demo", f"{file.name} is listed, and is not there")
            continue
        wave_NC, rate = soundfile.read(file, dtype="int16", always_2d=True)
        tracker.sound(step, time, f"demos/{file.stem}", wave_NC, rate)

"""`explain-loss`: what the loss of a run is, whether it is good, and how that is known. From its files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from partimento.errors import PartimentoError
from partimento.lab.explainloss import codes, sound
from partimento.lab.explainloss.explained import Explained
from partimento.lab.explainloss.picture import picture
from partimento.lab.explainloss.record import Record, read
from partimento.lab.figures import Figure
from partimento.lab.verdict import SOUND
from partimento.runs.events import Event, read_events
from partimento.runs.run import Run

CODES = ("rvq", "dia", "mot")


def explain_loss(run_path: str | Path) -> Explained:
    """The explanation of the run at `run_path`, which may still be training.

    Raises RUN001, RUN002 (no run, or a damaged record) and LAB040 (a family that this version does not know).
    """
    run = Run.open(run_path)
    return explained(run, read_events(run.events_path))


def explained(run: Run, events: Sequence[Event]) -> Explained:
    """As `explain_loss`, of events that were read already. Raises LAB040."""
    return explain(_known(run, events))


def with_picture(run: Run, events: Sequence[Event]) -> tuple[Explained, Figure]:
    """What a report shows. Raises LAB040."""
    record = _known(run, events)
    return explain(record), picture(record)


def explain(record: Record) -> Explained:
    return sound.explain(record) if record.run.record["family"] in SOUND else codes.explain(record)


def _known(run: Run, events: Sequence[Event]) -> Record:
    family = run.record["family"]
    if family in (*CODES, *SOUND):
        return read(run, events)
    raise PartimentoError(
        "LAB040",
        f"what the loss of the family {family!r} is made of is not known here",
        where=str(run.path / "run.json"),
        why=f"this version knows {', '.join((*CODES, *SOUND))}",
        next="read it with the version that wrote it (run.json names it)",
    )

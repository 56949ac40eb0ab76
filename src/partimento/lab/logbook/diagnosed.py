"""The doctor's lines in the log."""

from __future__ import annotations

from pathlib import Path

from partimento.errors import PartimentoError
from partimento.lab.doctor import text
from partimento.lab.doctor.doctor import doctor
from partimento.lab.logbook import prose


def diagnosed(path: Path) -> list[str]:
    """What the doctor finds in the run at `path` as lines of Markdown: a sentence, then its first findings; or one line
    that says why there is nothing."""
    try:
        found = doctor(path)
    except PartimentoError as err:
        return [f"The run could not be examined: {prose.plain(err.message)} ({err.code})."]
    return [prose.plain(line) for line in text.lines(found)]

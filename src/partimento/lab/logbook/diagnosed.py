"""The doctor's lines in the log."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from partimento.errors import PartimentoError
from partimento.lab.logbook import prose

MOST = 3
DOCTOR = "partimento.lab.doctor"


def diagnosed(path: Path) -> list[str]:
    """What the doctor finds in the run at `path`, the likeliest first; or one line that says why there is nothing."""
    if importlib.util.find_spec(DOCTOR) is None or importlib.util.find_spec(f"{DOCTOR}.doctor") is None:
        return ["This version has no doctor, so nobody examined the run."]
    try:
        diagnosis = importlib.import_module(f"{DOCTOR}.doctor").doctor(path)
    except PartimentoError as err:
        return [f"The run could not be examined: {prose.plain(err.message)} ({err.code})."]
    lines = [
        f"{prose.plain(found.disease)} (confidence {found.confidence:.0%}): "
        + " ".join(prose.plain(evidence.text) for evidence in found.evidence[:2])
        for found in diagnosis.findings[:MOST]
    ]
    return lines or ["Nothing was found to be wrong."]

"""The laboratory. What its commands do is a call here, imported when it is first used: `partimento.lab.publish(...)`.

Where a command has the name of its room (doctor, memorised, plan, preflight, report, score), the name is the room's
here, and the call is `partimento.doctor(...)`.
"""

from __future__ import annotations

import importlib
from typing import Any

_CALLS = {
    "ablate": "partimento.lab.ablation.ablate",
    "compare": "partimento.lab.compared.compare",
    "log": "partimento.lab.logbook.logbook",
    "publish": "partimento.lab.card",
    "rank": "partimento.lab.compared.rank",
    "track": "partimento.runs.trackers.afterwards",
    "watch": "partimento.lab.watching.live",
}


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module 'partimento.lab' has no attribute {name!r}")
    return getattr(importlib.import_module(_CALLS[name]), name)

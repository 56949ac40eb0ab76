"""Whether the process that trains a run is alive, as far as this machine can know."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partimento import commit

LOCKS = Path("/proc/locks")


def here() -> dict[str, Any]:
    """This process, for the events `start` and `resume`: its number, and a hash of the machine since it was started."""
    return {"process": os.getpid(), "machine": commit.machine()}


def alive(event: Mapping[str, Any]) -> bool | None:
    """Whether the process of a `start` or `resume` event is still there. None if that cannot be known: it is on another
    machine, or the log is of an older version.

    The lock of the run is not tried, since a try would be in the way of a resume at the same moment. Where the system
    lists its locks, a process that holds none is another one of the same number.
    """
    process, machine = event.get("process"), event.get("machine")
    if not isinstance(process, int) or machine != commit.machine():
        return None
    if not commit.alive(process):
        return False
    try:
        locks = LOCKS.read_text()
    except OSError:
        return True
    holders = {fields[4] for line in locks.splitlines() if len(fields := line.split()) > 4 and fields[1] == "FLOCK"}
    return not holders or str(process) in holders

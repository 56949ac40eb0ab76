"""`track`: the events of a run that was trained without a tracker, or whose tracker was switched off, sent to one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from partimento import commit
from partimento.errors import PartimentoError
from partimento.runs.events import read_events
from partimento.runs.run import Run
from partimento.runs.trackers import FOLDER, TRACKERS, Facts, Tracker, Trackio, require
from partimento.runs.trackers.translate import send


def track(run_path: str | Path, to: str) -> dict[str, Any]:
    """Send all events of the run at `run_path` to the tracker `to`; what that has of it is replaced, so sending twice
    is sending once. Returns {"run", "to", "events", "folder"}; `folder` is None where the tracker has its own store.

    Raises RUN001, RUN002, RUN003 (it is being trained), RUN010 (no such tracker here), RUN011 (the tracker failed).
    """
    run = Run.open(run_path)
    if to not in TRACKERS:
        raise PartimentoError("RUN010", f"there is no tracker {to!r}", next=f"choose one of: {', '.join(TRACKERS)}")
    require([to])
    events = read_events(run.events_path)
    folder = run.path / FOLDER / to
    fresh = folder.with_name(f"{to}{commit.TMP}")
    tracker: Tracker = Trackio(again=True) if to == "trackio" else TRACKERS[to]()
    with run.hold(), commit.disk_errors(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            tracker.open(Facts.of(run, fresh))
            for event in events:
                send(tracker, event, run.path)
            tracker.close()
        except PartimentoError:
            raise
        except Exception as err:  # a stranger's library may raise anything
            shutil.rmtree(fresh, ignore_errors=True)
            raise PartimentoError(
                "RUN011",
                f"the tracker {to} failed",
                where=str(folder),
                why=f"{type(err).__name__}: {err}",
                next=f"partimento track {run.path} --to {to}",
            ) from err
        if fresh.exists():
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)
    return {
        "run": str(run.path),
        "to": to,
        "events": len(events),
        "folder": str(folder) if folder.exists() and to != "trackio" else None,
    }

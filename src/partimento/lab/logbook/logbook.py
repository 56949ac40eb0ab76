"""`log`: the research log of a folder of runs, as Markdown pages that are written on by hand, and the same as HTML.

log/index.md  index.html          all days and runs that have a page
log/2026-03-15.md  .html          a day
log/runs/ID.md  .html             a run
log/pictures/                     curves, by the hash of their content
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from partimento.errors import PartimentoError
from partimento.lab.logbook.blocks import Block, Hand
from partimento.lab.logbook.gather import Date, Experiment, commits, experiments
from partimento.lab.logbook.html import html
from partimento.lab.logbook.pages import Written, write, write_whole
from partimento.lab.logbook.sheets import day_page, goal_of, index_page, run_page, today
from partimento.runs.run import Run

PAGE = re.compile(r"\d{4}-\d{2}-\d{2}\.md")


@dataclass(frozen=True)
class Logged:
    """Files that were written, the index last, and `notes`: what was kept because a hand wrote it."""

    pages: tuple[Path, ...]
    notes: tuple[str, ...]


def log(what: str | None = None, runs: str | Path = "runs", to: str | Path = "log") -> Logged:
    """Write the log of a day ("2026-03-15", "today", "yesterday"; None is today), of a run (its id below `runs`, or its
    folder), or of all days ("all"), and the index. Commits are those of the working directory.

    Raises LAB093 (neither a day nor a run), LAB092 (no place for a page is left), RUN002, SYS002.
    """
    runs, to = Path(runs), Path(to)
    everything, problems = experiments(runs)
    made: list[Written] = []
    one_run = None if what in (None, "all") or _date(str(what)) else _run(str(what), runs, everything)
    if one_run is not None:
        one, others = one_run
        made += _both(
            to / "runs" / f"{one.run.id}.md", run_page(one, others, to / "runs"), "research log", "../index.html"
        )
    elif what == "all":
        for day in sorted({day for one in everything for day in one.days()}):
            made += _day(day, everything, problems, to)
    else:
        made += _day(_date(str(what or "today")) or today(), everything, problems, to)
    made += _index(everything, to)
    notes = tuple(dict.fromkeys(note for page in made for note in page.notes))
    return Logged(tuple(page.path for page in made), notes)


def _day(day: Date, everything: Sequence[Experiment], problems: Sequence[str], to: Path) -> list[Written]:
    found = [then for one in everything if (then := one.until(day)) is not None]
    parts = day_page(day, found, everything, commits(day, Path.cwd()), problems, to)
    return _both(to / f"{day.isoformat()}.md", parts, "research log", "index.html")


def _index(everything: Sequence[Experiment], to: Path) -> list[Written]:
    """Of the pages that are there, whenever they were made."""
    days = []
    for path in sorted(to.glob("*.md"), reverse=True):
        day = _date(path.stem) if PAGE.fullmatch(path.name) else None
        if day is not None:
            goal = goal_of(path.read_text(encoding="utf-8", errors="replace"))
            days.append((day, [one for one in everything if day in one.days()], goal))
    runs = sorted(path.stem for path in (to / "runs").glob("*.md") if not re.search(r"\.new\d*$", path.stem))
    return _both(to / "index.md", index_page(days, runs), "research log", None)


def _both(path: Path, parts: Sequence[Block | Hand], eyebrow: str, home: str | None) -> list[Written]:
    """The page, and the same as HTML beside it (beside the one that has the new text)."""
    made = write(path, parts)
    path = made.path
    page = html(made.text, path.parent, eyebrow, home)
    return [made, write_whole(path.with_suffix(".html"), page)]


def _date(text: str) -> Date | None:
    if text in ("today", "yesterday"):
        return today() - datetime.timedelta(days=text == "yesterday")
    try:
        return datetime.date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else None
    except ValueError:
        return None


def _run(what: str, runs: Path, everything: Sequence[Experiment]) -> tuple[Experiment, Sequence[Experiment]]:
    """The run, and those that it is compared with: its neighbours in its own folder."""
    path = runs / what if (runs / what / "run.json").is_file() else Path(what)
    if not (path / "run.json").is_file():
        raise PartimentoError(
            "LAB093",
            f"{what!r} is neither a day nor a run",
            where=str(runs),
            why="a day is written 2026-03-15, today or yesterday; a run is its folder, or its id below --runs",
            next=f"ls {runs}",
        )
    if path.resolve().parent != runs.resolve():
        everything, _ = experiments(path.resolve().parent)
    run = Run.open(path)
    found = next((one for one in everything if one.run.path.resolve() == path.resolve()), None)
    if found is None:
        raise PartimentoError("LAB093", f"the log of the run {run.id} cannot be read", where=str(run.events_path))
    return found, everything

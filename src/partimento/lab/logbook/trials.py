"""An ablation as one section of the log: its runs together, and what `compare` says of them."""

from __future__ import annotations

import datetime
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partimento.errors import PartimentoError
from partimento.lab import facts
from partimento.lab.ablation.state import DONE, RECORD
from partimento.lab.compared import document, page, text
from partimento.lab.compared.compare import Comparison, compare
from partimento.lab.figures import Figure
from partimento.lab.logbook import prose
from partimento.lab.logbook.blocks import Block
from partimento.lab.logbook.diagnosed import diagnosed
from partimento.lab.logbook.drawings import draw
from partimento.lab.logbook.entry import link
from partimento.lab.logbook.gather import Experiment

MOST_VERDICTS = 10
FEW = 2  # runs that are named where the doctor says something of them alone
COLUMNS = ("score", "trained", "gap", "gain", "si_sdr", "skipped", "alarms", "minutes")  # that fit on a page


@dataclass(frozen=True)
class Trial:
    """An ablation on a day: its folder, what was asked for, and its runs as far as they had come."""

    path: Path
    record: dict[str, Any]
    runs: list[Experiment]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def status(self) -> str:
        planned = len(self.record.get("runs") or self.runs)
        states = Counter("finished" if _finished(one) else one.state for one in self.runs)
        states["not begun"] += planned - len(self.runs)
        return f"{states.pop('finished', 0)} of {planned} runs finished" + "".join(
            f", {number} {state}" for state, number in states.items() if number
        )

    def compared(self) -> Comparison | str:
        """Of the finished runs, or while there are none of those to compare, of all that were validated; or why there
        is none."""
        done = [one.run.path for one in self.runs if _finished(one)]
        judged = [one.run.path for one in self.runs if any(event["kind"] == "valid" for event in one.events)]
        try:
            return compare(done if len(done) > 1 else judged)
        except PartimentoError as err:
            return f"{err.message} ({err.code})"


def apart(found: Sequence[Experiment]) -> tuple[list[Experiment], list[Trial]]:
    """Runs that stand for themselves, and those of ablations together."""
    alone, folders = [], dict[Path, list[Experiment]]()
    for one in found:
        if is_trial(one.run.path.parent):
            folders.setdefault(one.run.path.parent, []).append(one)
        else:
            alone.append(one)
    return alone, [_planned(Trial(path, _record(path), runs)) for path, runs in folders.items()]


def _planned(one: Trial) -> Trial:
    """Its runs in the order of the plan; the first value is what the others are held against."""
    order = {str(run.get("run")): number for number, run in enumerate(one.record.get("runs") or [])}
    runs = sorted(one.runs, key=lambda run: order.get(run.run.path.name, len(order)))
    return Trial(one.path, one.record, runs)


def is_trial(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def trial_entry(one: Trial, found: Comparison | str, log: Path) -> Block:
    """The section of `one`, with its comparison; `log` is where the page lies."""
    parts = [f"### {prose.plain(one.name)}", _status(one)]
    said = list(dict.fromkeys(text.text for run in one.runs for text in run.hypotheses))
    parts += [f"> **Hypothesis:** {prose.plain(text)}" for text in said] or ["*No hypothesis was given.*"]
    parts += [f"**Setup.** {_setup(one, found)}", "**Command**", prose.fenced(_command(one.record))]
    parts += _result(one, found, log)
    parts += ["**Doctor.**", "\n".join(_doctor(one))]
    kept = [link(one.path / name, log, name) for name in ("compare.html", "compare.csv") if (one.path / name).exists()]
    parts += [f"**To hear and to see:** {' · '.join(kept)}"] if kept else []
    return Block(f"ablation:{one.name}", prose.safe("\n\n".join(parts)))


def best(found: Comparison | str) -> str:
    """For the table of the day: the cell with the lowest mean, and how many of the differences are decided."""
    if isinstance(found, str):
        return "not compared"
    scored = [(row[0], cell.name) for cell in found.cells if (row := found.row(cell, "score")) is not None]
    tested = [pair for pair in found.pairs if pair.adjusted is not None]
    lowest = f"lowest: {min(scored)[1]}; " if scored else ""
    if not tested:
        return f"{lowest}no difference can be tested yet"
    return f"{lowest}{sum(bool(pair.decided) for pair in tested)} of {len(tested)} differences decided"


def _finished(one: Experiment) -> bool:
    return next((str(e.get("reason")) for e in reversed(one.events) if e["kind"] == "end"), None) in DONE


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the page says that the command is not known
    return found if isinstance(found, dict) else {}


def _status(one: Trial) -> str:
    times = [event["time"] for run in one.runs for event in run.events if event.get("time") is not None]
    said = f"**Status:** {one.status}"
    if times:
        first, last = (datetime.datetime.fromtimestamp(time) for time in (min(times), max(times)))
        said += f" · {first:%d %b %H:%M} to {last:{'%H:%M' if first.date() == last.date() else '%d %b %H:%M'}}"
    return said


def _setup(one: Trial, found: Comparison | str) -> str:
    if isinstance(found, str):
        return f"{prose.plain(facts.what(one.runs[0].run))}. Not compared: {prose.plain(found)}."
    return prose.plain(" ".join(filter(None, document.setup(found))))


def _command(record: dict[str, Any]) -> str:
    """As it was asked for, one option a line."""
    if "config" not in record:
        return "not known: ablation.json cannot be read"
    lines = [shlex.join(["partimento", "ablate", str(record["config"]), *map(str, record.get("changes") or [])])]
    lines += [f"--vary {shlex.quote(str(text))}" for text in record.get("vary") or []]
    lines += [
        f"--{name} {shlex.quote(str(record[name]))}"
        for name in ("seeds", "budget", "hypothesis")
        if record.get(name) is not None
    ]
    return " \\\n    ".join(lines)


def _result(one: Trial, found: Comparison | str, log: Path) -> list[str]:
    if isinstance(found, str):
        return [f"**Result.** Not compared: {prose.plain(found)}."]
    now = " (As the runs are now.)" if any(run.later for run in one.runs) else ""
    verdicts = [f"- {prose.plain(line)}." for line in text.verdicts(found)]
    shown, more = verdicts[:MOST_VERDICTS], len(verdicts) - MOST_VERDICTS
    head, rows = text.table_of(found, COLUMNS)
    parts = [f"**Result.** Means over the seeds, with half of the 95 % interval.{now}"]
    parts += [prose.table([head[0] or "cell", *head[1:]], [list(map(prose.plain, row)) for row in rows])]
    parts += [prose.plain(text.alike(found))] if found.alike else []
    parts += ["\n".join(shown + ([f"- and {more} more"] if more > 0 else []))] if shown else []
    parts += [prose.plain(text.holm(found))] if text.holm(found) else []
    parts += ["\n".join(f"- {prose.plain(note)}" for note in found.notes)] if found.notes else []
    drawn = [page.held_out(found)]
    if (svg := page.forest(found.pairs)) is not None:
        drawn.append(Figure("Differences", "With their 95 % intervals, second minus first; lower is better.", svg))
    for title, place, caption in draw(drawn, one.name, log):
        parts += [f"![{prose.plain(title)}]({place})", f"*{prose.plain(title)}. {prose.plain(caption)}*"]
    return parts


def _doctor(one: Trial) -> list[str]:
    """What it says, and of which runs it says so."""
    said: dict[str, list[str]] = {}
    for run in one.runs:
        said.setdefault(diagnosed(run.run.path)[0], []).append(run.run.id)
    rows = []
    for line, names in sorted(said.items(), key=lambda row: -len(row[1])):
        few = f" ({', '.join(map(prose.code, names))})" if len(names) <= FEW < len(one.runs) else ""
        share = "all" if len(names) == len(one.runs) else f"{len(names)} of"
        rows.append(f"- {share} {len(one.runs)} runs{few}: {line}")
    return rows

"""One experiment as a section of the log."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from partimento.errors import PartimentoError
from partimento.lab import facts
from partimento.lab.logbook import prose
from partimento.lab.logbook.blocks import Block
from partimento.lab.logbook.diagnosed import diagnosed
from partimento.lab.logbook.drawings import pictures
from partimento.lab.logbook.gather import Experiment, nearest
from partimento.runs import demos
from partimento.runs.run import resume_command

MOST_DIFFERENCES, MOST_LINES, MOST_SOUNDS = 16, 12, 8
HAPPENED = ("alarm", "rollback", "halt", "note", "resume")


def entry(one: Experiment, others: Sequence[Experiment], log: Path) -> Block:
    """The section of `one`; `others` are all runs of the folder, `log` is where the page lies."""
    run = one.run
    parts = [f"### {prose.plain(run.id)}", _status(one)]
    said = one.hypotheses
    parts += [_hypothesis(text.text, text.step) for text in said] or ["*No hypothesis was given.*"]
    parts += [f"**Setup.** {prose.plain(facts.what(run))}. {_setup(one, others)}"]
    parts += ["**Command**", prose.fenced(_command(one))]
    verdict = one.verdict
    parts += [
        f"**Result.** {prose.plain(verdict.sentence)}" + (f" {prose.plain(verdict.remark)}" if verdict.remark else "")
    ]
    for title, place, caption in pictures(one, log):
        parts += [f"![{prose.plain(title)}]({quote(place)})", f"*{prose.plain(title)}. {prose.plain(caption)}*"]
    said_first, *found = diagnosed(run.path)
    parts += [f"**Doctor.** {said_first}" + (" (Of the run as it is now.)" if one.later else "")]
    parts += ["\n".join(f"- {line}" for line in found)] if found else []
    if happened := _happened(one):
        parts += ["**What happened**", "\n".join(happened)]
    if sounds := _sounds(one, log):
        parts += [sounds]
    if notes := _notes(one):
        parts += ["**Notes of the run**", prose.quoted(notes)]
    return Block(f"run:{run.id}", prose.safe("\n\n".join(parts)))


def link(target: Path, log: Path, text: str) -> str:
    """A link from a page in `log` to a file, by a relative path, so that both can be moved together."""
    return f"[{text}]({quote(os.path.relpath(target.resolve(), log.resolve()))})"


def _status(one: Experiment) -> str:
    times = [event["time"] for event in one.events if event.get("time") is not None]
    said = f"**Status:** {prose.plain(one.status)}"
    if times:
        first, last = (datetime.datetime.fromtimestamp(time) for time in (times[0], times[-1]))
        same = first.date() == last.date()
        said += f" · {first:%d %b %H:%M} to {last:{'%H:%M' if same else '%d %b %H:%M'}}"
        said += f" · trained {_spent(one)}"
    if resumes := sum(event["kind"] == "resume" for event in one.events):
        said += f" · resumed {resumes} ×"
    return said


def _spent(one: Experiment) -> str:
    return next(value for label, value, _ in facts.tiles(one.run, one.events) if label == "time spent")


def _hypothesis(text: str, step: int | None) -> str:
    added = "" if step is None else f" (added at step {step:,})"
    return f"> **Hypothesis{added}:** {prose.plain(text)}"


def _setup(one: Experiment, others: Sequence[Experiment]) -> str:
    found = nearest(one, others)
    if found is None:
        return "It is the first run of its family here, so there is nothing to compare its settings with."
    other, rows = found
    if not rows:
        return f"Its settings, data and program are those of {prose.code(other.run.id)}."
    cells = [
        [prose.code(key), prose.setting(here), prose.setting(there)] for key, here, there in rows[:MOST_DIFFERENCES]
    ]
    more = len(rows) - len(cells)
    text = f"What differs from {prose.code(other.run.id)}, the nearest earlier run:\n\n"
    text += prose.table(["setting", "here", "there"], cells)
    return text + (f"\n\nand {more} more settings." if more > 0 else "")


def _command(one: Experiment) -> str:
    path = one.run.path
    again = f"partimento train {shlex.quote(str(path / 'config.json'))}"
    return f"{again}    # the same training, as a new run\n{resume_command(path)}    # goes on with this one"


def _happened(one: Experiment) -> list[str]:
    events = [event for event in one.events if event["kind"] in HAPPENED]
    lines = []
    for event in events[:MOST_LINES]:
        values = {"alarm": event.get("alarm"), "resume": event.get("checkpoint")}.get(event["kind"])
        text = event.get("text") or event.get("reason") or ""
        said = ": ".join(prose.plain(part) for part in (event["kind"], values, text) if part)
        lines.append(f"- step {event['step']:,}: {said}")
    if len(events) > MOST_LINES:
        lines.append(f"- and {len(events) - MOST_LINES} more in {prose.code('events.jsonl')}")
    if torn := sum(event["kind"] == "torn" for event in one.events):
        lines.append(f"- lines of the log that are torn and were left out: {torn}")
    return lines


def _sounds(one: Experiment, log: Path) -> str:
    """Links to what was played last, and to the report."""
    run, links = one.run, []
    report = run.path / "report.html"
    if report.exists():
        links.append(link(report, log, "report"))
    played = [event for event in one.events if event["kind"] == "demo"]
    if played:
        folder = run.path / str(played[-1].get("path"))
        try:
            items = demos.read(folder).items
        except PartimentoError as err:
            return f"**To hear:** {prose.plain(err.message)} ({err.code})."
        files = [folder / Path(item["file"]).name for item in items]
        links += [link(file, log, prose.plain(file.stem)) for file in files[:MOST_SOUNDS] if file.exists()]
        if len(files) > MOST_SOUNDS:
            links.append(link(folder, log, f"all {len(files)}"))
    return f"**To hear and to see:** {' · '.join(links)}" if links else ""


def _notes(one: Experiment) -> str | None:
    """`notes.md`, where more is in it than the training put there."""
    text = facts.notes(one.run)
    if text is None:
        return None
    made = f"# {one.run.id}\n\n{one.run.record.get('hypothesis') or ''}".strip()
    return text.removeprefix(made).strip() or None

"""What stands on a page: of a day, of a run, and on the index."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from partimento.lab.compared.compare import Comparison
from partimento.lab.logbook import prose
from partimento.lab.logbook.blocks import Block, Hand
from partimento.lab.logbook.entry import entry
from partimento.lab.logbook.gather import Commits, Date, Experiment, flat
from partimento.lab.logbook.trials import Trial, apart, best, trial_entry
from partimento.lab.verdict import SOUND, SoundVerdict

GOAL = Hand("Goal", "What is to be found out today, and how will it be known?")
BY_HAND = (
    Hand("Key insights", "What is known now that was not known this morning, and which figure says so?"),
    Hand("Questions", "What came up that nobody here can answer yet?"),
    Hand("Plan for tomorrow", "Which one experiment decides most, and what is expected of it?"),
)
MOST_VARIED = 6  # columns of settings in a table


def day_page(
    day: Date,
    found: Sequence[Experiment],
    everything: Sequence[Experiment],
    made: Commits,
    problems: Sequence[str],
    log: Path,
) -> list[Block | Hand]:
    """`found` are the runs of the day as they were at its end, `everything` all runs of the folder."""
    alone, together = apart(found)
    trials = [(one, one.compared()) for one in together]
    return [
        Block("head", _head(day, alone, together, made)),
        GOAL,
        Block("experiments", "## Experiments\n\n" + _experiments(alone, trials, problems)),
        *(trial_entry(one, compared, log) for one, compared in trials),
        *(entry(one, everything, log) for one in alone),
        *([Block("comparison", "## Comparison\n\n" + _comparison(alone))] if alone or not trials else []),
        *BY_HAND,
        Block("commits", "## Commits\n\n" + _commits(made)),
    ]


def run_page(one: Experiment, everything: Sequence[Experiment], log: Path) -> list[Block | Hand]:
    return [
        Block("head", f"# {prose.plain(one.run.id)}\n\nThe whole run, on whatever days it was trained."),
        entry(one, everything, log),
        Hand("What it says", "Was the hypothesis right, and would the opposite have been seen?"),
        Hand("What comes next", "What would be done differently, and which run is that?"),
    ]


def index_page(
    days: Sequence[tuple[Date, Sequence[Experiment], str | None]], runs: Sequence[str]
) -> list[Block | Hand]:
    """`days` with their experiments and the goal that was written by hand, newest first; `runs` have a page each."""
    rows = []
    for day, found, goal in days:
        alone, together = apart(found)
        names = [one.name for one in together] + [one.run.id for one in alone]
        told = ", ".join(map(prose.code, names[:4])) + (" …" if len(names) > 4 else "")
        address = f"[{day.isoformat()}]({day.isoformat()}.md)"
        rows.append([address, prose.plain(goal) if goal else "–", str(len(names)), str(len(found)), told])
    body = "# Research log\n\n"
    body += (
        prose.table(["day", "goal", "experiments", "runs", "names"], rows, right=[2, 3])
        if rows
        else "No day has a page yet."
    )
    if runs:
        body += "\n\n## Runs\n\n" + "\n".join(f"- [{prose.plain(run)}](runs/{run}.md)" for run in runs)
    return [Block("index", prose.safe(body)), Hand("About this log", "What is this project to find out?")]


def _head(day: Date, alone: Sequence[Experiment], together: Sequence[Trial], made: Commits) -> str:
    title = f"# {day:%A} {day.day} {day:%B %Y}"
    ended = sum(one.state == "finished" for one in alone)
    counts = f"{_count(len(alone), 'experiment')}, {ended} finished"
    if together:
        runs = sum(len(one.runs) for one in together)
        counts = f"{_count(len(together), 'ablation')} of {runs} runs" + (f"; {counts}" if alone else "")
    return f"{title}\n\n{counts}; {_count(len(made.rows), 'commit') if made.missing is None else 'commits not known'}."


def _experiments(
    found: Sequence[Experiment], trials: Sequence[tuple[Trial, Comparison | str]], problems: Sequence[str]
) -> str:
    parts = []
    if found or trials:
        rows = [[prose.code(one.name), prose.plain(one.status), "–", prose.plain(best(made))] for one, made in trials]
        rows += [
            [
                prose.code(one.run.id),
                prose.plain(one.status),
                "; ".join(prose.plain(said.text) for said in one.hypotheses) or "–",
                _badge(one),
            ]
            for one in found
        ]
        parts.append(prose.table(["run or ablation" if trials else "run", "status", "hypothesis", "result"], rows))
    else:
        parts.append("No run logged anything on this day.")
    parts += [f"- cannot be read: {prose.plain(line)}" for line in problems]
    return prose.safe("\n\n".join(parts))


def _comparison(found: Sequence[Experiment]) -> str:
    """A table for each measure and data, since figures on other data are no comparison."""
    groups: dict[tuple[bool, str], list[Experiment]] = {}
    for one in found:
        identity = flat(one.run.record.get("identity") or {})
        groups.setdefault((one.run.record["family"] in SOUND, str(sorted(identity.items()))), []).append(one)
    tables = [_table(group) for group in groups.values() if len(group) > 1]
    if not tables:
        return "There are no two runs of this day on the same data and by the same measure."
    note = (
        "Each row is one run. What a change of seed alone does is not in this table: a difference that is smaller than "
        "that says nothing."
    )
    return prose.safe("\n\n".join([*tables, note]))


def _table(group: Sequence[Experiment]) -> str:
    settings = [flat(one.run.record["config"]) for one in group]
    keys = sorted({key for each in settings for key in each})
    varied = [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
    scored = [(_score(one)[0], number) for number, one in enumerate(group) if _score(one)[0] is not None]
    best = min(scored)[1] if scored else None
    name, floor = (
        ("mel distance", "of the input") if group[0].run.record["family"] in SOUND else ("bit/s", "of the bigram")
    )
    rows = []
    for number, (one, each) in enumerate(zip(group, settings, strict=True)):
        score, of_floor, best_step = _score(one)
        digits = 3 if name == "mel distance" else 1
        value = prose.figure(score, digits)
        rows.append(
            [
                prose.code(one.run.id),
                *(prose.setting(each.get(key)) for key in varied[:MOST_VARIED]),
                f"{one.steps[0]:,}" if one.steps[0] is not None else "–",
                f"**{value}**" if number == best else value,
                "–" if of_floor is None else prose.percent(of_floor),
                "–" if best_step is None else f"{best_step:,}",
                f"{one.run.record['parameters'] / 1e6:.2f} M" if one.run.record.get("parameters") else "–",
            ]
        )
    head = ["run", *map(prose.code, varied[:MOST_VARIED]), "steps", name, floor, "best at", "parameters"]
    first = 1 + len(varied[:MOST_VARIED])
    text = prose.table(head, rows, right=range(first, len(head)))
    left = len(varied) - MOST_VARIED
    return text + (f"\n\nThey differ in {left} more settings." if left > 0 else "")


def _score(one: Experiment) -> tuple[float | None, float | None, int | None]:
    """The last held-out score, its share of the floor, and the step of the best one."""
    verdict = one.verdict
    if isinstance(verdict, SoundVerdict):
        score, floor = verdict.mel7, verdict.input_mel7
    else:
        score, floor = verdict.bits_per_second, verdict.bigram_bits_per_second
    return score, score / floor if score is not None and floor else None, verdict.best_step


def _badge(one: Experiment) -> str:
    score, share, _ = _score(one)
    if score is None:
        return "not judged"
    sound = one.run.record["family"] in SOUND
    said = f"mel distance {score:.3f}" if sound else f"{score:,.1f} bit/s"
    return said if share is None else f"{said}, {prose.percent(share)} of the {'input' if sound else 'bigram'}'s"


def _commits(made: Commits) -> str:
    if made.missing is not None:
        return f"Not known: {prose.plain(made.missing)}."
    if not made.rows:
        return "None on this day."
    rows = [[prose.code(number), time, prose.plain(subject)] for number, time, subject in made.rows]
    return prose.safe(prose.table(["commit", "time", "subject"], rows))


def _count(number: int, name: str) -> str:
    return f"{number or 'no'} {name}{'s' * (number != 1)}"


def goal_of(page: str) -> str | None:
    """The first line that was written by hand under the goal of a day's page."""
    inside = False
    for line in page.splitlines():
        if line.startswith("#"):
            inside = line.strip() == f"## {GOAL.heading}"
        elif inside and line.strip() and GOAL.question not in line and not line.startswith("<!--"):
            return line.strip()
    return None


def today() -> Date:
    return datetime.date.today()

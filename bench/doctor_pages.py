"""The pages docs/doctor/ID.md, their pictures, and the generated parts of docs/doctor.md: see bench/doctor.py.

What a page says of a disease stands in diseases.toml, and what it shows comes from a planted run. The second part lies
between two marks, so that the first can be held against diseases.toml without training anything.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from partimento import commit
from partimento.lab.doctor.doctor import Diagnosis
from partimento.lab.doctor.finding import LEVELS, Disease, diseases
from partimento.lab.doctor.text import headed

WIDTH = 125
SEEN_IN = {"weights": "the weights", "log": "the log", "data": "the data", "samples": "the demos"}
# Colours of the page's charts that can be read on white and on black alike: a picture in Markdown has no style sheet.
COLOURS = {
    "--ink": "#7a7a7a", "--muted": "#7a7a7a", "--rule": "#80808059", "--blue": "#2b82c9", "--vermilion": "#d4602a",
    "--green": "#1f9472", "--pink": "#bb6a99", "--amber": "#b27d1c",
}  # fmt: skip
_SHOWN = re.compile(r"(?s)(?<=<!-- planted: bench/doctor.py -->\n).*?(?=\n<!-- end of planted -->)")


@dataclass(frozen=True)
class Case:
    """What the doctor said of one planted run. `place` is that of its disease among the diagnoses, `before` and
    `behind` what stood around it, `shown` its finding as it is printed, `chart` the first drawing beside it. `why`:
    what kept it from being made."""

    disease: str
    level: str
    how: str
    place: int | None
    confidence: float
    before: tuple[str, ...]
    behind: tuple[str, ...]
    seconds: float
    shown: str | None
    chart: str | None
    why: str | None = None

    @classmethod
    def of(
        cls, disease: str, level: str, how: str, found: Diagnosis | None, places: Mapping[str, str], why: str | None
    ) -> Case:
        """`places` are folders of this machine, and what is written in their stead."""
        if found is None:
            return cls(disease, level, how, None, 0.0, (), (), 0.0, None, None, why)
        likely = [one.disease for one in found.diagnoses]
        place = likely.index(disease) + 1 if disease in likely else None
        one = next((one for one in found.findings if one.disease == disease), None)
        if one is None:
            return cls(disease, level, how, None, 0.0, tuple(likely), (), found.seconds, None, None)
        chart = next((evidence.chart for evidence in one.evidence if evidence.chart is not None), None)
        shown = headed(place or len(likely) + 1, one)
        for folder, name in places.items():
            shown = shown.replace(folder, name)
        before, behind = (likely[: place - 1], likely[place:]) if place else (likely, [])
        told = (place, one.confidence, tuple(before), tuple(behind), found.seconds, shown, chart)
        return cls(disease, level, how, *told)

    def named(self, first: int) -> bool:
        return self.place is not None and self.place <= first


def write(to: Path, wanted: Sequence[Disease], cases: Sequence[Case]) -> None:
    """A page and a picture each. A disease of which no planted run was named keeps its page, and loses its example."""
    to.mkdir(parents=True, exist_ok=True)
    for one in wanted:
        theirs = [case for case in cases if case.disease == one.id]
        shown = [case for case in theirs if case.place is not None and case.chart is not None]
        example = max(shown, key=lambda case: (-(case.place or 0), case.confidence), default=None)
        if example is not None and example.chart is not None:
            commit.text(to / f"{one.id}.svg", standalone(example.chart))
        commit.text(to / f"{one.id}.md", page(one, planted(one, theirs, example)))


def page(one: Disease, shown: str) -> str:
    """All of a page; `shown` is the part of the planted runs."""
    seen = " and in ".join(SEEN_IN[level] for level in one.level)
    parts = [
        f"# {one.name}",
        f"`{one.id}`, seen in {seen}. [All diseases](../doctor.md)",
        wrapped(one.what),
        f"## A planted case\n\n<!-- planted: bench/doctor.py -->\n{shown}\n<!-- end of planted -->",
        f"## If that is wrong\n\n{wrapped(one.looks_like_if_wrong)}",
        f"## Try first\n\n{wrapped(one.change)}",
        f"## When it is named\n\n{wrapped(one.rule)}",
    ]
    if one.hides:
        behind = ", ".join(
            f"[{diseases()[name].name[0].lower()}{diseases()[name].name[1:]}]({name}.md)" for name in one.hides
        )
        parts.append(wrapped(f"Where it is likely, these count as its consequences and stand behind it: {behind}."))
    parts.append("## More\n\n" + "\n".join(f"- {_source(source)}" for source in one.source))
    return "\n\n".join(parts) + "\n"


def planted(one: Disease, cases: Sequence[Case], example: Case | None) -> str:
    """The picture, the evidence as it is printed, and how the runs were spoilt."""
    if example is None or example.shown is None:
        return "No planted run shows it."
    rows = [f"![{one.name}]({one.id}.svg)", f"```\n{example.shown}\n```"]
    others = [case for case in cases if case is not example and case.place is not None]
    rows.append(wrapped(f"What was planted there: {_planted(example.how)}."))
    if others:
        rows.append("It is named as well where this is planted:")
        rows.append("\n".join(f"- {_planted(case.how)}: {percent(case.confidence)} sure" for case in others))
    return "\n\n".join(rows)


def words(text: str) -> str:
    """A page without what comes from planted runs."""
    return _SHOWN.sub("", text)


def reword(folder: Path, index_page: Path) -> None:
    """Write the words of diseases.toml anew; what comes from planted runs stays."""
    for one in diseases().values():
        path = folder / f"{one.id}.md"
        shown = _SHOWN.search(path.read_text(encoding="utf-8")) if path.exists() else None
        commit.text(path, page(one, shown[0] if shown else planted(one, (), None)))
    fill(index_page, "diseases", index())


def index() -> str:
    """Every disease by where it is seen first, with its rule: a part of docs/doctor.md."""
    parts = []
    for level in ("log", *(level for level in LEVELS if level != "log")):
        of = [one for one in diseases().values() if one.level[0] == level]
        rows = [f"| {linked(one.id)} | {cell(one.name)} | {cell(one.rule)} |" for one in of]
        heading = f"### In {SEEN_IN[level]}"
        parts.append("\n".join([heading, "", "| | | named when |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def fill(path: Path, what: str, content: str) -> None:
    """Put `content` between the marks `what` of a page. Raises ValueError where they are not there once."""
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {what}: bench/doctor.py -->", f"<!-- end of {what} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path}: the marks {begin} and {end} are not there once")
    head, _, rest = text.partition(begin)
    commit.text(path, f"{head}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}")


def standalone(svg: str) -> str:
    """A chart as a file of its own that needs no style sheet."""
    box = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)
    if box is None:
        raise ValueError("the drawing has no size")
    for name, colour in COLOURS.items():
        svg = svg.replace(f"var({name})", colour)
    size = f'width="{1.5 * float(box[1]):.0f}" height="{1.5 * float(box[2]):.0f}"'
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif">{rest}\n'


def linked(disease: str) -> str:
    return f"[`{disease}`](doctor/{disease}.md)"


def cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _planted(how: str) -> str:
    """As a part of a sentence."""
    small = how[:1].lower() + how[1:] if how[1:2].islower() or how[1:2] == " " else how
    return small.removesuffix(".")


def _source(source: str) -> str:
    told, _, address = source.rpartition(": ")
    if told:
        return f"[{told}]({address})"
    return f"[docs/{source}](../{source})"


def wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)

"""The doctor on planted faults and on healthy runs: is each disease named, and is anything named that is not there?

    python bench/doctor.py [--only ID,ID] [--healthy] [--keep FOLDER] [--docs docs/doctor.md] [--pages docs/doctor]

Makes every planted run of tests/faults/ward (small real trainings with one thing spoilt) and every healthy one, and
diagnoses each. A fault counts as named if its disease is among the first two diagnoses. --keep keeps the runs, and uses
those that lie there. --docs writes the tables of docs/doctor.md, --pages one page and one picture a disease; --words
puts changes of diseases.toml into both, and trains nothing.
Prints a table and, last, one JSON line; the exit status is 1 if a fault was not named, a disease is planted nowhere, or
a healthy run has a diagnosis.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))
from ward import Healthy, Planted, healthy, planted  # type: ignore[import-not-found]  # of the path above

import doctor_pages as pages
from doctor_pages import Case
from partimento.lab.doctor.doctor import Diagnosis, doctor
from partimento.lab.doctor.finding import LIKELY, diseases

FIRST = 2
DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Well:
    """What the doctor said of a healthy run: its surest finding, and how sure that is (0 without any)."""

    name: str
    how: str
    finding: str | None
    confidence: float
    seconds: float

    @property
    def passed(self) -> bool:
        return self.confidence < LIKELY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="diseases, with commas between them; then no healthy runs")
    parser.add_argument("--healthy", action="store_true", help="healthy runs alone")
    parser.add_argument("--keep", type=Path, help="kept and used again; a temporary folder otherwise")
    parser.add_argument("--docs", type=Path, help="rewrite the tables of this page")
    parser.add_argument("--pages", type=Path, help="write one page and one picture a disease to this folder")
    parser.add_argument("--words", action="store_true", help="write diseases.toml's words into docs/ anew, and no more")
    options = parser.parse_args()
    if options.words:
        pages.reword(DOCS / "doctor", DOCS / "doctor.md")
        return
    only = {name for name in options.only.split(",") if name}
    if unknown := sorted(only - diseases().keys()):
        parser.error(f"there is no disease {unknown[0]}")
    if options.docs and (only or options.healthy):
        parser.error("the tables are of all runs: --docs goes without --only and --healthy")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="doctor_"))
    _share(folder)
    began = time.monotonic()
    cases = [] if options.healthy else list(examine_planted(folder, only, keep=bool(options.keep)))
    wells = [] if only else list(examine_healthy(folder, keep=bool(options.keep)))
    lacking = sorted((only or diseases().keys()) - {case.disease for case in cases}) if not options.healthy else []
    if options.pages:
        pages.write(options.pages, [one for one in diseases().values() if not only or one.id in only], cases)
    if options.docs:
        pages.fill(options.docs, "diseases", pages.index())
        pages.fill(options.docs, "figures", figures(cases, wells))
    told = told_in_json(cases, wells, lacking)
    print(f"\n{time.monotonic() - began:.0f} s")
    print(json.dumps(told))
    if not options.keep:
        shutil.rmtree(folder)
    raise SystemExit(0 if told["passed"] else 1)


def _share(folder: Path) -> None:
    """The packs that several runs are trained on lie below `folder` too: a kept run without its pack says less."""
    from ward import toys

    number = len(list(folder.glob("shared-*"))) + 1
    shared = folder / f"shared-{number}"
    shared.mkdir(parents=True)
    toys.home = lambda: shared


def examine_planted(folder: Path, only: set[str], *, keep: bool) -> Iterator[Case]:
    print(f"{'disease':<22}{'level':<9}{'place':>5}{'sure':>6}{'s':>6}  {'before it':<28}planted")
    for one in planted():
        if only and one.disease not in only:
            continue
        where = folder / one.level / one.name
        found, why = diagnosed(one, where)
        case = Case.of(one.disease, one.level, one.how, found, _clean(where, folder), why)
        if not keep:
            shutil.rmtree(where, ignore_errors=True)
        place = "-" if case.place is None else str(case.place)
        sure, before = f"{case.confidence:.2f}", ", ".join(case.before)
        mark = "" if case.named(FIRST) else f"  <-- {why or 'not named'}"
        print(
            f"{one.disease:<22}{one.level:<9}{place:>5}{sure:>6}{case.seconds:>6.1f}  {before:<28}{one.how}{mark}",
            flush=True,
        )
        yield case


def examine_healthy(folder: Path, *, keep: bool) -> Iterator[Well]:
    print(f"\n{'healthy':<34}{'sure':>6}{'s':>6}  of what")
    for one in healthy():
        where = folder / "healthy" / one.name.replace(" ", "-")
        found, why = diagnosed(one, where)
        if not keep:
            shutil.rmtree(where, ignore_errors=True)
        if found is None:
            well = Well(one.name, one.how, why, 1.0, 0.0)
        else:
            first = max(found.findings, key=lambda finding: finding.confidence, default=None)
            named = (first.disease, first.confidence) if first is not None else (None, 0.0)
            well = Well(one.name, one.how, named[0], named[1], found.seconds)
        mark = "" if well.passed else "  <--"
        print(f"{one.name:<34}{well.confidence:>6.2f}{well.seconds:>6.1f}  {well.finding or '-'}{mark}", flush=True)
        yield well


def diagnosed(one: Planted | Healthy, where: Path) -> tuple[Diagnosis | None, str | None]:
    """The diagnosis of the run, which is made unless it lies there; or why there is none."""
    record = where / "made.json"
    try:
        if not record.exists():
            shutil.rmtree(where, ignore_errors=True)
            where.mkdir(parents=True)
            made = one.make(where)
            paths = made if isinstance(made, tuple) else (made,)
            record.write_text(json.dumps([str(path.relative_to(where)) for path in paths]))
        return doctor(*(where / path for path in json.loads(record.read_text()))), None
    except Exception as err:  # one that cannot be made is a failure of the bench, and the others are still of use
        return None, f"{type(err).__name__}: {err}"


def _clean(where: Path, folder: Path) -> dict[str, str]:
    """What stands for the places of this machine in printed evidence."""
    return {str(where): "runs", str(folder): "packs", tempfile.gettempdir(): "packs"}


def figures(cases: list[Case], wells: list[Well]) -> str:
    """The tables of docs/doctor.md."""
    named, first = (sum(case.named(most) for case in cases) for most in (FIRST, 1))
    alone = sum(case.named(1) and not case.behind for case in cases)
    alarms = sum(not well.passed for well in wells)
    seconds = sorted([case.seconds for case in cases] + [well.seconds for well in wells])
    middle, most = (seconds[len(seconds) // 2], seconds[-1]) if seconds else (0.0, 0.0)
    said = (
        f"Of {len(cases)} planted faults of {len({case.disease for case in cases})} diseases {named} are named in the "
        f"first two diagnoses, {first} of them first and {alone} alone; of {len(wells)} healthy runs {alarms} have a "
        f"diagnosis. To look at one takes {middle:.1f} s in the middle, {most:.1f} s at most (small runs, one core)."
    )
    lines = [
        pages.wrapped(said),
        "",
        "| disease | level | planted | place | sure | before it | behind it |",
        "|---|---|---|---:|---:|---|---|",
    ]
    for case in cases:
        place = "–" if case.place is None else str(case.place)
        before, behind = (", ".join(f"`{name}`" for name in names) or "–" for names in (case.before, case.behind))
        row = [
            pages.linked(case.disease),
            case.level,
            pages.cell(case.how),
            place,
            pages.percent(case.confidence),
            before,
            behind,
        ]
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", "| healthy | | surest finding | sure |", "|---|---|---|---:|"]
    for well in wells:
        found = "–" if well.finding is None else f"`{well.finding}`"
        sure = "–" if well.finding is None else pages.percent(well.confidence)
        lines.append(f"| {pages.cell(well.name)} | {pages.cell(well.how)} | {found} | {sure} |")
    return "\n".join(lines)


def told_in_json(cases: list[Case], wells: list[Well], lacking: list[str]) -> dict[str, Any]:
    missed = [f"{case.disease}: {case.how}" for case in cases if not case.named(FIRST)]
    alarms = [f"{well.name}: {well.finding}" for well in wells if not well.passed]
    return {
        "bench": "doctor",
        "planted": len(cases),
        "diseases": len({case.disease for case in cases}),
        "not_planted": lacking,
        "named_first": sum(case.place == 1 for case in cases),
        "named": len(cases) - len(missed),
        "alone": sum(case.named(1) and not case.behind for case in cases),
        "missed": missed,
        "without_picture": sorted({case.disease for case in cases if case.chart is None}),
        "healthy": len(wells),
        "false_alarms": alarms,
        "highest_healthy": max((well.confidence for well in wells), default=None),
        "passed": not missed and not alarms and not lacking,
    }


if __name__ == "__main__":
    main()

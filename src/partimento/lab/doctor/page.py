"""A diagnosis as one HTML page that works offline."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

import partimento
from partimento import commit
from partimento.lab import page as pages
from partimento.lab.doctor import text
from partimento.lab.doctor.doctor import Diagnosis
from partimento.lab.doctor.finding import diseases


def page(found: Diagnosis, to: str | Path) -> Path:
    """Write the page to the file `to` and return its path. Raises SYS002 where it cannot be written."""
    environment = pages.environment()
    environment.filters["whole"] = lambda line: line.replace(" %", "\N{NO-BREAK SPACE}%")  # no line begins with it
    html = environment.get_template("doctor.html").render(
        style=Markup(pages.asset("report.css") + pages.asset("doctor.css")),
        found=found,
        diseases=diseases(),
        summary=text.summary(found),
        line_of=text.line_of,
        against=None if found.other is None else text.against(found, found.other),
        other_summary=None if found.other is None else text.summary(found.other),
        version=partimento.__version__,
    )  # fmt: skip
    target = Path(to)
    commit.text(target, html)
    return target

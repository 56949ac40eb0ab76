"""What the pages of the laboratory share: templates that escape all text, and style and script that go inside."""

from __future__ import annotations

from importlib import resources

import jinja2
from markupsafe import Markup


def asset(name: str) -> str:
    """A file of `lab/templates`, as text."""
    return (resources.files("partimento.lab") / "templates" / name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Everything is escaped but what goes through the filter `svg`; a name that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("partimento.lab"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup
    environment.filters["megabytes"] = lambda size: f"{size / 1e6:.1f} MB"
    environment.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    return environment

"""What the commands share: the progress display, and results as text or JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from partimento.errors import PartimentoError

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress display.")


class Real(click.FloatRange):
    """A range that NaN and infinity are outside of (every comparison with NaN is false, so click lets it through)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def result(values: Mapping[str, Any], as_json: bool, text: str | None = None) -> None:
    """The result on stdout: JSON for machines, `text` (or aligned lines) for people."""
    if as_json:
        click.echo(json.dumps(values, default=str, sort_keys=True))
    else:
        click.echo(text if text is not None else lines(values))


def failed(values: Mapping[str, Any], err: PartimentoError, as_json: bool, text: str) -> None:
    """As `result`, of a command whose finding is a failure: for machines both in one object, and its exit status."""
    if as_json:
        result({**values, "error": err.to_json()}, as_json)
        raise click.exceptions.Exit(err.exit_status)
    click.echo(text)
    raise err


def lines(values: Mapping[str, Any]) -> str:
    width = max((len(str(k)) for k in values), default=0)
    return "\n".join(f"{k:<{width}}  {_plain(v)}" for k, v in values.items())


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A plain table, numbers to the right."""
    cells = [head] + [[_plain(v) for v in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    numeric = [all(not isinstance(row[i], str) for row in rows) for i in range(len(head))]

    def line(row: list[str]) -> str:
        return "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()

    return "\n".join([line(cells[0]), "  ".join("-" * w for w in widths), *map(line, cells[1:])])


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return str(value)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Any]:
    """A progress display on stderr: live bars on a terminal, a line now and then elsewhere, nothing when quiet."""
    from partimento.progress import Quiet

    if quiet:
        yield Quiet()
    elif sys.stderr.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _Lines()


def _facts(facts: Mapping[str, Any]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in facts.items())


class _Lines:
    """For logs: one line when a stage begins, and one every ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0.0

    def stage(self, name: str, why: str = "") -> None:
        click.echo(f"== {name}" + (f": {why}" if why else ""), err=True)
        self._last = self._clock()

    def update(self, done: float, total: float, **facts: Any) -> None:
        now = self._clock()
        if now - self._last >= 10 or (total and done >= total):
            self._last = now
            share = f"{100 * done / total:3.0f} %" if total else f"{done:.0f}"
            click.echo(f"   {share}  {_facts(facts)}".rstrip(), err=True)

    def note(self, text: str) -> None:
        click.echo(f"   note: {text}", err=True)


class _Bars:
    """For terminals: a line of explanation and a bar a stage, the finished ones staying above."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[facts]}"),
            console=Console(stderr=True),
        )
        self._task: Any = None

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def _finish(self) -> None:
        if self._task is not None:
            total = self._progress.tasks[self._progress.task_ids.index(self._task)].total or 1
            self._progress.update(self._task, completed=total, total=total)

    def stage(self, name: str, why: str = "") -> None:
        from rich.markup import escape

        self._finish()
        if why:
            self._progress.console.print(f"[bold]{escape(name)}[/bold] [dim]{escape(why)}[/dim]")
        self._task = self._progress.add_task(escape(name), total=None, facts="")

    def update(self, done: float, total: float, **facts: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total or None, facts=_facts(facts))

    def note(self, text: str) -> None:
        from rich.markup import escape

        self._progress.console.print(f"[yellow]note[/yellow] {escape(text)}")

"""One picture of a run for the terminal: 80 columns and 24 rows are enough, and more are used."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from partimento.lab.watching.braille import Stroke, draw
from partimento.lab.watching.watched import Watched, span

LOWEST, HIGHEST = 3, 24  # rows of a chart
BESIDE = 15  # rows of everything else, with all alarms that are shown
STYLES = {"running": "bold green", "ended": "bold cyan", "new": "bold yellow"}
_LABEL = 8  # columns of the figures beside a chart


def frame(seen: Watched, silent_for: float, width: int = 80, rows: int = 24, keys: bool = False) -> RenderableType:
    """`rows` are those of the terminal; `keys`: with the line that says how to leave."""
    height = min(HIGHEST, max(LOWEST, rows - BESIDE))
    now = seen.to_json(silent_for)
    head = Text(seen.run.id, "bold", no_wrap=True, overflow="ellipsis")
    parts: list[RenderableType] = [head, Text(now["condition"], STYLES.get(now["state"], "bold red"), no_wrap=True)]
    parts += [Text(f"“{text}”", "italic", no_wrap=True, overflow="ellipsis") for text in seen.hypotheses[-1:]]
    parts += [_bar(now, width), Text()]
    half = (width - 2) // 2
    row = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        row.add_column(width=half, no_wrap=True)
    row.add_row(_losses(seen, half - 2, height), _scores(seen, half - 2, height))
    parts += [row, Text(), _figures(now, half)]
    parts += [_alarm(event, width) for event in seen.alarms]
    if keys:
        parts.append(Text("q quits; the run goes on", "dim"))
    return Group(*parts)


def _bar(now: dict[str, object], width: int) -> Text:
    step, planned, left = now["step"], now["steps"], now["seconds_left"]
    if not isinstance(step, int) or not isinstance(planned, int):
        return Text("no step yet", "dim")
    said = f" step {step:,} of {planned:,}, {step / planned:.0%}"
    said += f", {span(left)} left" if isinstance(left, float) else ""
    room = max(10, width - len(said))
    full = min(room, round(room * step / planned))
    return Text.assemble(("█" * full, "blue"), ("░" * (room - full), "dim"), said)


def _losses(seen: Watched, width: int, height: int) -> Text:
    loss, valid = seen.line.get("loss"), seen.valid_losses
    title = Text.assemble(("loss", "bold"), ("  train ", "blue"), _number(loss))
    if valid:
        title.append_text(Text.assemble(("  valid ", "red"), _number(valid[max(valid)])))
    return _chart(title, [Stroke(seen.losses, "blue"), Stroke(valid, "red")], width, height)


def _scores(seen: Watched, width: int, height: int) -> Text:
    weights, floor = seen.weights, seen.floor
    points = seen.scores[weights] if weights else {}
    name = "bits/s" if seen.score == "bits_per_second" else "mel distance"
    title = Text.assemble((name, "bold"), (f"  {weights} " if weights else "", "green"))
    title.append(_number(points[max(points)]) if points else "not judged yet")
    strokes = [Stroke(points, "green")]
    if floor:
        title.append_text(Text.assemble((f"  {floor[0]} ", "yellow"), _number(floor[1])))
        strokes.append(Stroke({-1: floor[1]}, "yellow"))
    return _chart(title, strokes, width, height)


def _chart(title: Text, strokes: list[Stroke], width: int, height: int) -> Text:
    drawing = draw(strokes, width - _LABEL - 1, height)
    title.truncate(width, overflow="ellipsis")
    if drawing is None:
        return Text("\n").join([title, *[Text()] * (height // 2), Text("nothing logged yet".center(width), "dim")])
    lines = [title]
    for number, row in enumerate(drawing.rows):
        edge = {0: _number(drawing.top) + "↑" * drawing.cut, height - 1: _number(drawing.bottom)}.get(number, "")
        lines.append(Text.assemble((edge.rjust(_LABEL) + "│", "dim"), *row))
    steps = [step for stroke in strokes for step in stroke.points if step >= 0]
    first, last = f"{min(steps):,}", f"{max(steps):,}"
    lines.append(Text(" " * (_LABEL + 1) + first + last.rjust(width - _LABEL - 1 - len(first)), "dim"))
    return Text("\n").join(lines)


def _figures(now: dict[str, object], half: int) -> Table:
    """What was not logged says so: a run on a processor knows no peak of memory."""
    forms = {
        "rate": ("lr", lambda v: f"{v:.3g}"),
        "speed": ("frames_per_second", lambda v: f"{v:,.0f} frames/s"),
        "gradient norm": ("grad_norm", lambda v: f"{v:.3g}"),
        "waiting for data": ("data_wait", lambda v: f"{v:.1%}"),
        "skipped steps": ("skipped", lambda v: f"{v:,}"),
        "peak memory": ("peak_bytes", lambda v: f"{v / 1e9:.2f} GB"),
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in (18, half - 20, 18, half - 20):
        table.add_column(width=column, no_wrap=True)
    cells: list[Text] = []
    for name, (key, form) in forms.items():
        value = now[key]
        cells.append(Text(name, "dim"))
        cells.append(Text("not logged", "dim") if value is None else Text(form(value)))
    for at in range(0, len(cells), 4):
        table.add_row(*cells[at : at + 4])
    return table


def _alarm(event: dict[str, object], width: int) -> Text:
    what = event.get("alarm") or event["kind"]
    said = event.get("text") or event.get("reason") or ""
    return Text(f"! step {event['step']}: {what}: {said}", "red", no_wrap=True, overflow="ellipsis")


def _number(value: object) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

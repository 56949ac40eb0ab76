"""The curves of an experiment as SVG files beside the page, for readers of Markdown; in the HTML they are inside."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import escape

from partimento import commit
from partimento.lab import figures, soundfigures
from partimento.lab.figures import Figure
from partimento.lab.logbook.gather import Experiment
from partimento.lab.logbook.pages import slug
from partimento.lab.verdict import SOUND

FOLDER = "pictures"
MOST = 2  # figures of an experiment: the score and the loss
_NAMES = ("ink", "muted", "rule", "blue", "vermilion", "green", "pink", "amber")
_LIGHT = ("#1c1b19", "#68645b", "#e2ded3", "#0067a8", "#c44900", "#00805e", "#b0568a", "#a86f00")
_DARK = ("#eceae4", "#a39f95", "#33353a", "#63b5ee", "#ff8f52", "#3fcf9f", "#e08fbd", "#e9b44c")


def pictures(one: Experiment, log: Path) -> list[tuple[str, str, str]]:
    """Of one experiment: the score and the loss. As `draw`."""
    sound = one.run.record["family"] in SOUND
    drawn: list[Figure] = (soundfigures.learning if sound else figures.learning)(one.events)
    return draw([found for found in drawn if found.svg is not None][:MOST], one.run.id, log)


def draw(drawn: Sequence[Figure], name: str, log: Path) -> list[tuple[str, str, str]]:
    """Write what is drawn below `log`. Returns (title, path from `log`, caption), [] where nothing was logged. A name
    holds the hash of its content, so what an older page or a hand points to stays as it was."""
    made = []
    for number, found in enumerate([found for found in drawn if found.svg is not None]):
        text = standalone(found.svg or "", found.legend)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        path = log / FOLDER / f"{slug(name)}-{number + 1}-{digest}.svg"
        if not path.exists():
            commit.text(path, text)
        made.append((found.title, f"{FOLDER}/{path.name}", found.caption))
    return made


def standalone(svg: str, legend: Sequence[tuple[str, str, str]] = ()) -> str:
    """A chart of the report as a file of its own: its size, the colours that the page would give it, and its legend
    (label, CSS variable, kind of line) below."""
    box = re.search(r'viewBox="(\S+ \S+) (\S+) (\S+)"', svg)
    size = ""
    if box:
        width, height = float(box[2]), float(box[3])
        rows, below = _legend(legend, width, height)
        svg = svg.replace(box[0], f'viewBox="{box[1]} {width:g} {below:g}"', 1)
        svg = f"{svg.rpartition('</svg>')[0]}{rows}</svg>"
        size = f' width="{width:.0f}" height="{below:.0f}"'
    light, dark = (
        ";".join([*(f"--{name}:{colour}" for name, colour in zip(_NAMES, colours, strict=True)), f"background:{paper}"])
        for colours, paper in ((_LIGHT, "#fff"), (_DARK, "#1b1c1f"))
    )
    style = f"svg{{{light};font-family:system-ui,sans-serif}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"{size}><style>{style}</style>{rest}'


def _legend(legend: Sequence[tuple[str, str, str]], width: float, height: float) -> tuple[str, float]:
    """A row an entry, in the size of the chart's own figures, and the height with them."""
    letter = width / 50
    made = []
    for row, (label, colour, kind) in enumerate(legend):
        y = height + letter * (1 + 1.6 * row)
        dashes = {"dashed": ' stroke-dasharray="6 3"', "dotted": ' stroke-dasharray="2 3"'}.get(kind, "")
        made.append(
            f'<line x1="{2 * letter:g}" x2="{5 * letter:g}" y1="{y - 0.3 * letter:g}" y2="{y - 0.3 * letter:g}" '
            f'stroke="var({colour})" stroke-width="2"{dashes}/>'
            f'<text x="{6 * letter:g}" y="{y:g}" font-size="{letter:g}" fill="var(--ink)">{escape(label)}</text>'
        )
    return "".join(made), height + letter * 1.6 * len(legend) + (letter if legend else 0)

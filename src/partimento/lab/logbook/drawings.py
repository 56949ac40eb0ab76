"""The curves of an experiment as SVG files beside the page, for readers of Markdown; in the HTML they are inside."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

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
    """Draw what there is, and write it below `log`. Returns (title, path from `log`, caption), [] where nothing was
    logged. A name holds the hash of its content, so what an older page or a hand points to stays as it was."""
    sound = one.run.record["family"] in SOUND
    drawn: list[Figure] = (soundfigures.learning if sound else figures.learning)(one.events)
    made = []
    for number, found in enumerate([found for found in drawn if found.svg is not None][:MOST]):
        text = standalone(found.svg or "")
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        path = log / FOLDER / f"{slug(one.run.id)}-{number + 1}-{digest}.svg"
        if not path.exists():
            commit.text(path, text)
        made.append((found.title, f"{FOLDER}/{path.name}", found.caption))
    return made


def standalone(svg: str) -> str:
    """A chart of the report as a file of its own: its size, and the colours that the page would give it."""
    box = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)
    size = f' width="{float(box[1]):.0f}" height="{float(box[2]):.0f}"' if box else ""
    light, dark = (
        ";".join([*(f"--{name}:{colour}" for name, colour in zip(_NAMES, colours, strict=True)), f"background:{paper}"])
        for colours, paper in ((_LIGHT, "#fff"), (_DARK, "#1b1c1f"))
    )
    style = f"svg{{{light};font-family:system-ui,sans-serif}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"{size}><style>{style}</style>{rest}'

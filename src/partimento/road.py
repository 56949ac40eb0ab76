"""The whole road in one call: a folder of music in, a trained model that plays out.

hear -> encode -> keep -> draw -> arrange -> learn -> play -> judge, on the built-in band, with the same calls that a
user makes with their own music.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from partimento import commit, config
from partimento.audio.synth import render_band
from partimento.codecs.encode import encode
from partimento.lab.report import report
from partimento.progress import Progress, Quiet
from partimento.runs.events import read_events
from partimento.training.engine import train

LOOPS = 200
RUN = "band"


@dataclass(frozen=True)
class Road:
    """What the demo left, and how its model compares: held-out bits per second of audio, lower is better."""

    report: Path
    run: Path
    pack: Path
    bits_per_second: float
    bigram_bits_per_second: float
    unigram_bits_per_second: float


def demo(out: str | Path = "demo", *, loops: int = LOOPS, progress: Progress | None = None) -> Road:
    """Render the band, encode it, train a small model on it, let it play, and write the report.

    Everything goes below `out`. Stopped at any point, the same call goes on where it was; a finished demo only writes
    its report anew.
    """
    progress = progress or Quiet()
    out = Path(out)
    music, pack = out / "music", out / "packs" / "band"

    progress.stage("band", f"a synthetic band plays {loops} loops, each labelled with its style, tempo and key")
    if not (music / "tags.jsonl").exists():
        render_band(music, loops, seed=0, progress=progress)
    encode([music], pack, progress=progress)

    settings = out / f"{RUN}.toml"
    if not settings.exists():
        commit.text(settings, _settings(pack, music))
    run = train(
        config.load(settings),
        runs=out / "runs",
        run=RUN,
        hypothesis="a small model beats the bigram baseline on loops that it never heard",
        progress=progress,
    )
    progress.stage("report", "curves, what the model plays, and how it compares, on one page")
    page = report(run.path)

    events = read_events(run.events_path)
    valid = [e for e in events if e["kind"] == "valid" and e["weights"] == "ema"][-1]
    baseline = [e for e in events if e["kind"] == "baseline"][-1]
    return Road(
        report=page,
        run=run.path,
        pack=pack,
        bits_per_second=valid["bits_per_second"],
        bigram_bits_per_second=baseline["bigram_bits_per_second"],
        unigram_bits_per_second=baseline["unigram_bits_per_second"],
    )


def _settings(pack: Path, music: Path) -> str:
    """The embedded configuration with the places filled in."""
    text = resources.files("partimento").joinpath("band.toml").read_text(encoding="utf-8")
    for name, place in (("pack", pack), ("recordings", music)):
        line = re.search(rf'^{name} = "[^"]*"', text, flags=re.M)
        assert line is not None, name
        text = text.replace(line[0], f'{name} = "{place.as_posix()}"')
    return text

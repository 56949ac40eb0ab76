"""An evaluation as one page that works offline: verdict, curves by shift, tables, artifacts, sounds and pictures."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

import partimento
from partimento.audio import files
from partimento.lab import charts, page
from partimento.lab.charts import Line
from partimento.lab.figures import Figure
from partimento.lab.pictures import frequency_ticks, spectrogram_png, waveform_path
from partimento.lab.restored import text
from partimento.lab.restored.artifacts import BY_NAME
from partimento.lab.restored.metrics import BANDS, OCTAVES, Metric
from partimento.lab.restored.tables import EVERY, Row, find

if TYPE_CHECKING:
    from partimento.lab.restored.evaluate import Evaluation
    from partimento.lab.restored.judge import Triplet

DRAWN = ("mel7", "lsd", "lsd_high", "si_sdr")
PICTURE = (600, 170)
WHAT = {
    "round trip": "Shifted by n semitones and back by the engine alone, then restored: what a cleaner is trained on. "
    "Input: what the engine left. Output: what the restorer made of it.",
    "in use": "Shifted by n, restored there, and shifted back by the engine so that there is an original to compare "
    "with. Input: the same without the restorer. What it brings to a sound that stays shifted.",
    "unshift": "Shifted by n once, and to be unshifted by the network alone.",
}


def render(found: Evaluation, triplets: Sequence[Triplet], sample_rate: int) -> str:
    """The page as text."""
    script = page.asset("report.js")
    return page.environment().get_template("evaluation.html").render(
        style=Markup(page.asset("report.css") + page.asset("evaluation.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        found=found,
        verdict=_verdict(found),
        tiles=_tiles(found),
        protocols=[_protocol(found, protocol) for protocol in found.protocols],
        heads=text.HEAD,
        faults=BY_NAME,
        probes=_probes(found.probes),
        triplets=[_triplet(one, sample_rate) for one in triplets],
        formulas=[(text.title(metric), metric.formula) for metric in found.metrics],
        about=[(name.replace("_", " "), _plain(value)) for name, value in found.about.items()],
        version=partimento.__version__,
    )  # fmt: skip


def _verdict(found: Evaluation) -> tuple[str, str]:
    """(badge, its kind) by the mel distance at every shift, under every protocol."""
    shifted = [row for row in found.rows if row.metric == "mel7" and row.set == EVERY and row.semitones]
    if not shifted:
        return "not judged", ""
    if all(row.improves for row in shifted):
        return "better at every shift", "good"
    if any(row.improves is False for row in shifted):
        return "worse at some shift", "bad"
    return "better at some shifts" if any(row.improves for row in shifted) else "no difference shown", ""


def _tiles(found: Evaluation) -> list[tuple[str, str, str]]:
    tiles = [("Recordings", str(found.about["recordings"]), f"{found.about['sources']} sources")]
    for protocol in found.protocols:
        for name, title, digits in (("mel7", "mel", 2), ("si_sdr", "SI-SDR", 1)):
            row = next((row for row in find(found.rows, protocol, name) if row.semitones is None), None)
            if row is not None:
                value = f"{row.input.mean:.{digits}f} → {row.output.mean:.{digits}f}"
                tiles.append((f"{title}, {protocol}", value, "input → output, all shifts"))
    faulty = sum(one.output for one in found.artifacts)
    before = sum(one.input for one in found.artifacts)
    tiles.append(("Artifacts", str(faulty), f"found in outputs; {before} in inputs"))
    return tiles


def _protocol(found: Evaluation, name: str) -> dict[str, Any]:
    sets = list(dict.fromkeys(row.set for row in found.rows if row.protocol == name))
    return {
        "name": name,
        "id": name.replace(" ", "-"),
        "why": WHAT[name],
        "figures": [*_curves(found, name), *_octaves(found, name)],
        "sets": [(one, *_tables(found, name, one)) for one in sets],
        "artifacts": [one for one in found.artifacts if one.protocol == name],
    }


Table = tuple[str, list[tuple[list[str], str]], int]
"""Title, rows of cells with the class of their verdict, how many pieces had no such figure."""


def _tables(found: Evaluation, protocol: str, of: str) -> tuple[list[Table], list[Table]]:
    """Those of the figures that are drawn, and the others."""
    drawn: list[Table] = []
    others: list[Table] = []
    for metric in found.metrics:
        rows = find(found.rows, protocol, metric.name, of)
        if rows:
            marked = [(text.cells(row), {True: "good-text", False: "bad-text", None: ""}[row.improves]) for row in rows]
            table = (text.title(metric), marked, max(row.undefined for row in rows))
            (drawn if metric.name in DRAWN or metric.name in found.predictors else others).append(table)
    return drawn, others


def _curves(found: Evaluation, protocol: str) -> list[Figure]:
    figures = []
    for metric in found.metrics:
        rows = [row for row in find(found.rows, protocol, metric.name) if row.semitones]  # by nothing: no damage
        if (metric.name in DRAWN or metric.name in found.predictors) and len(rows) > 1:
            figures.append(_curve(protocol, metric, rows))
    return figures


def _curve(protocol: str, metric: Metric, rows: Sequence[Row]) -> Figure:
    """Input and output by shift; the interval of their difference is drawn around the output."""
    shifts = [float(row.semitones or 0.0) for row in rows]
    lines = [
        Line("input", shifts, [row.input.mean for row in rows], charts.MUTED, "--"),
        Line("output", shifts, [row.output.mean for row in rows], charts.BLUE, width=2.2),
    ]
    if all(row.difference.low is not None and row.difference.high is not None for row in rows):
        for bound in ("low", "high"):
            ends = [row.input.mean + getattr(row.difference, bound) for row in rows]
            lines.append(Line("", shifts, ends, charts.BLUE, ":", width=1))
    name = f"{protocol.replace(' ', '-')}-{metric.name.replace(':', '-').replace('.', '-')}"
    svg = charts.line_chart(name, lines, y_label=metric.unit or "distance", x_label="semitones")
    caption = f"{metric.better.capitalize()} is better. Dotted: input plus the 95 % interval of the paired difference."
    return Figure(metric.title, caption, svg)


def _octaves(found: Evaluation, protocol: str) -> list[Figure]:
    """Log-spectral distance by octave, over all shifts."""
    rows = {
        row.metric: row
        for row in found.rows
        if row.protocol == protocol and row.set == EVERY and row.semitones is None and row.metric in BANDS
    }
    points = [(hertz, rows[name]) for name, hertz in zip(BANDS, OCTAVES, strict=True) if name in rows]
    if len(points) < 2:
        return []
    hertz = [float(one) for one, _ in points]
    lines = [
        Line("input", hertz, [row.input.mean for _, row in points], charts.MUTED, "--"),
        Line("output", hertz, [row.output.mean for _, row in points], charts.BLUE, width=2.2),
    ]
    svg = charts.line_chart(
        f"{protocol.replace(' ', '-')}-octaves", lines, y_label="dB", x_label="Hz, centre of the octave", log_x=True
    )
    return [Figure("Where in the spectrum", "Log-spectral distance by octave, all shifts. Lower is better.", svg)]


def _triplet(one: Triplet, sample_rate: int) -> dict[str, Any]:
    waves = (("Input", one.input_N), ("Output", one.output_N), ("Target", one.target_N))
    return {
        "title": one.source,
        "subtitle": f"{one.kind} · {one.protocol} · {one.semitones:+g} semitones",
        "cards": [
            {
                "title": title,
                "audio": _audio(wave_N, sample_rate),
                "spectrogram": spectrogram_png(wave_N[None], sample_rate, PICTURE),
                "ticks": frequency_ticks(sample_rate),
                "outline": waveform_path(wave_N[None]),
            }
            for title, wave_N in waves
        ],
    }


def _audio(wave_N: np.ndarray[Any, Any], sample_rate: int) -> str:
    """FLAC as a data URI; what exceeds full scale is clipped, as a player would."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heard.flac"
        files.write(path, wave_N[None], sample_rate)
        return f"data:audio/flac;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _probes(found: dict[str, Any]) -> list[tuple[str, str]]:
    def told(name: str) -> str:
        faults = found[name]
        if not faults["found"]:
            return "nothing"
        line = f" at {faults['line_hertz']:,.0f} Hz" if faults["line_hertz"] is not None else ""
        return ", ".join(BY_NAME[fault].title.lower() for fault in faults["found"]) + line

    peak = found["silence_peak"]
    return [
        ("Silence in", "silence out" if peak == 0 else f"a peak of {20 * np.log10(peak):.0f} dB of full scale out"),
        ("White noise in, artifacts", told("noise")),
        ("A sine of 997 Hz in, artifacts", told("sine")),
    ]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return str(value)

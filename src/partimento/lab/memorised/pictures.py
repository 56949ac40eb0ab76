"""The audit's drawings: run lengths of samples against held-out music, and two passages' codes on top of each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partimento.lab import charts
from partimento.lab.charts import Line
from partimento.lab.figures import Figure
from partimento.lab.memorised.audited import Audit, NearCopy
from partimento.lab.memorised.text import clock

WIDTH, HEIGHT = 1000, 120
BARS = 24


def null_figures(audit: Audit) -> list[Figure]:
    """Of each level the spectrum of run lengths; of each figure the held-out values with the samples' highest."""
    found = [_spectrum(audit, name) for name in audit.spectrum]
    if audit.null is None:
        return [*found, Figure("Held-out clips", "The pack holds nothing out, so there is nothing to compare with.")]
    return found + [_histogram(audit, name) for name in audit.null.values]


def _spectrum(audit: Audit, name: str) -> Figure:
    sides = audit.spectrum[name]
    lines = [
        Line(side, list(range(1, len(values) + 1)), np.log10(values).tolist(), colour, dashes, width=width)
        for (side, values), (colour, dashes, width) in zip(
            sides.items(), ((charts.BLUE, "-", 2.2), (charts.MUTED, "--", 1.6)), strict=True
        )
        if values
    ]
    title = f"Run lengths, {name}"
    if not lines:
        return Figure(title, "No run of frames was found on either side.", size="third")
    svg = charts.line_chart(
        f"spectrum-{name.replace(' ', '-')}",
        lines,
        y_label="runs at least as long, powers of ten in 1,000 frames",
        x_label="frames of the run that inform",
        log_x=True,
        width=charts.THIRD,
    )
    caption = "A copy is a tail that held-out music does not have."
    return Figure(title, caption, svg, size="third")


def _histogram(audit: Audit, name: str) -> Figure:
    assert audit.null is not None
    held = audit.null.values[name]
    ours = [one.values[name] for one in audit.samples]
    top = max([*held, *ours])
    width = -(-(top + 1) // BARS)  # whole numbers a bar; on the right room for the name of the mark
    edges = np.arange(-0.5, 1.4 * top + 1 + width, width)
    counts, _ = np.histogram(held, edges)
    title = f"Held-out clips, {name}"
    svg = charts.histogram(
        f"held-{name.replace(' ', '-')}",
        edges.tolist(),
        counts.tolist(),
        y_label="held-out clips",
        x_label="score" if name == "near-copy" else "longest run, frames that inform",
        mark=(float(max(ours)), "highest sample"),
        colour=charts.MUTED,
        width=charts.THIRD,
    )
    fit = audit.null.fits[name]
    law = f"Fitted: Gumbel at {fit.place:.2f}, scale {fit.scale:.2f}." if fit else "No extreme-value law fits these."
    return Figure(title, law, svg, size="third")


def codes_svg(sample_TK: NDArray[np.uint16], clip_TK: NDArray[np.uint16], near: NearCopy) -> str:
    """Codes of the first book over the steps of the alignment: a ring for the clip, a dot in it for the sample. Where
    they agree the dot lies in its ring."""
    top = max(1, int(sample_TK[:, 0].max()), int(clip_TK[:, 0].max()))
    step = WIDTH / max(1, len(near.path))
    size = float(np.clip(step / 2, 1.2, 3.5))
    ours, theirs = near.sample_frame, near.clip_frame
    dots, rings = [], []
    for place, letter in enumerate(near.path):
        x = (place + 0.5) * step
        if letter != "d":
            dots.append(f"M{x:.1f} {_height(sample_TK[ours, 0], top)}h0")
            ours += 1
        if letter != "i":
            rings.append(f"M{x:.1f} {_height(clip_TK[theirs, 0], top)}h0")
            theirs += 1
    ring = f'<path d="{"".join(rings)}" stroke="var(--amber)" stroke-width="{2.6 * size:.1f}" stroke-opacity="0.55"/>'
    dot = f'<path d="{"".join(dots)}" stroke="var(--blue)" stroke-width="{size:.1f}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" class="codes" '
        'aria-label="Codes of the first book, sample and clip"><g fill="none" stroke-linecap="round">'
        f"{ring}{dot}</g></svg>"
    )


def _height(code: np.uint16, top: int) -> str:
    return f"{HEIGHT - 6 - (HEIGHT - 12) * int(code) / top:.1f}"


def ticks(near: NearCopy) -> list[tuple[float, str, str]]:
    """(share of the width, time in the sample, time in the clip) of a few places of the strip."""
    seconds = near.seconds
    count = 5 if seconds >= 0.3 else 2
    shares = [place / (count - 1) for place in range(count)]
    return [
        (share, clock(near.sample_second + share * seconds), clock(near.clip_second + share * seconds))
        for share in shares
    ]

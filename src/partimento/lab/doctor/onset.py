"""When a curve left its level, and who left first: the onset step, the codebook, the part of the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partimento.lab.doctor.log import Log, Series
from partimento.lab.doctor.patient import Patient, Snapshot
from partimento.lab.doctor.robust import Curve, noise, running

WIDTH = 20
"""Readings of a curve over the width of the window whose lowest median is its level."""
# A lowest of medians lies about one standard deviation under the mean; with two to be crossed before anything adds up,
# a healthy curve's sum falls back to 0 all the time, and ten more are next to impossible without a change.
DRIFT, ALARM = 2.0, 10.0
LAYERS = 3  # that are named


@dataclass(frozen=True)
class Level:
    """`path` [N] is the lowest median up to each reading, `sigma` the noise of one reading."""

    path: Curve
    sigma: float


def level(y_N: Curve) -> Level:
    """The level that a curve had reached by each reading. Noise of a curve that is nearly constant is no less than a
    thousandth of its level: rounding would be called a departure."""
    width = max(5, len(y_N) // WIDTH)
    medians = np.minimum.accumulate(running(y_N, width))
    path = np.concatenate([np.full(len(y_N) - len(medians), medians[0]), medians])
    return Level(path, max(noise(y_N), 1e-3 * abs(float(medians[-1])), 1e-12))


def onset(of: Series) -> float | None:
    """The step of the last reading before the curve left its level for good, or None if it did not: Page's cumulative
    sum (Biometrika 1954) over what is above the level, traced back to where it was last 0."""
    if len(of) < 8:
        return None
    known = level(of.y)
    before = np.concatenate([known.path[:1], known.path[:-1]])  # the level without the reading that is judged by it
    total, began, alarmed = 0.0, 0, False
    for place, over in enumerate((of.y - before) / known.sigma - DRIFT):
        total = max(0.0, total + float(over))
        if total == 0.0:
            began, alarmed = place, False
        alarmed = alarmed or total > ALARM
    return float(of.x[began]) if alarmed else None


def first_book(log: Log, begin: float) -> str | None:
    """Which codebook left its level first, after `begin` (a step); None without figures of each book."""
    books = len(log.train[-1].get("ce_K") or []) if log.train else 0
    found = []
    for book in range(books):
        part = log.series(f"ce_K.{book}").between(begin)
        step = onset(part)
        if step is not None:
            known = level(part.y)
            found.append((step, -float(part.y[-1] - known.path[-1]) / known.sigma, book))
    if not found:
        return None
    first = min(found)
    same = [one for one in found if one[0] == first[0]]
    lead = f"codebook {first[2] + 1} left its level first, after step {first[0]:,.0f}"
    if len(same) == 1:
        return f"{lead}; {len(found) - 1} of the other {books - 1} followed" if books > 1 else lead
    return f"{len(same)} of {books} codebooks left their level together, the most codebook {first[2] + 1}"


def first_layers(patient: Patient, step: float) -> tuple[str | None, str | None]:
    """What moved most between the checkpoints around a step, by the weights: (a sentence, why there is none)."""
    readable = [one for one in patient.snapshots if one.step is not None]
    before = [one for one in readable if (one.step or 0) <= step]
    after = [one for one in readable if (one.step or 0) > step]
    if not before or not after:
        kept = ", ".join(f"{one.step:,}" for one in readable) or "none"
        why = f"the first layer to move: the log has no figures by layer, and no two checkpoints (kept: {kept}) "
        return None, f"{why}lie around step {step:,.0f}"
    moved = movement(before[-1], after[0])
    if not moved:
        return None, "the first layer to move: the checkpoints around the onset have no weights in common"
    usual = float(np.median(list(moved.values())))
    most = sorted(moved, key=lambda name: -moved[name])[:LAYERS]
    named = ", ".join(f"{name} ({moved[name]:.2g})" for name in most)
    span = f"between the checkpoints of steps {before[-1].step:,} and {after[0].step:,}"
    return f"{span} {named} moved most for their size (the median of all parts: {usual:.2g})", None


def movement(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """|difference| / |before| of the weights of each block or other part of the model, raw weights."""
    one, other = before.part("model"), after.part("model")
    if one is None or other is None:
        return {}
    squares: dict[str, list[float]] = {}
    for name in sorted(one.shapes.keys() & other.shapes.keys()):
        was, now = one[name], other[name]
        if not was.is_floating_point() or was.shape != now.shape:
            continue
        was, now = was.double(), now.double()
        sums = squares.setdefault(_part(name), [0.0, 0.0])
        sums[0] += float((now - was).square().sum())
        sums[1] += float(was.square().sum())
    return {name: (moved / size) ** 0.5 for name, (moved, size) in squares.items() if size and moved == moved}


def _part(name: str) -> str:
    """ "blocks.3" of "blocks.3.attention.query.weight": up to the number of a layer, else the first two names."""
    path = name.split(".")
    number = next((place for place, one in enumerate(path) if one.isdecimal()), None)
    return ".".join(path[: number + 1] if number is not None else path[: min(2, len(path) - 1)] or path)

"""When a training should not go on as it is: pure functions of figures that were read, so that every rank and every
resume decides alike. A rule returns its reason as text, or None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, TypeGuard

from partimento.config import Guard

RECENT_FACTOR = 4  # so many times `patience` skips within a window are as bad as `patience` in a row
READS = 5  # consecutive readings of the loss that must all be bad: one may be a hard stretch of data
REMEMBERED = 128  # readings of the loss that `diverged` looks back on
SIGMAS = 4.0
NORMAL = 1.4826  # a median absolute deviation as a standard deviation


def exhausted(figures: Mapping[str, float], guard: Guard) -> str | None:
    """Too many steps were skipped: `patience` in a row, or 4 x `patience` within a window.

    `figures` are those of `guards.Guard.FIGURES` by name. The second rule cannot hold where 4 x patience > window.
    """
    in_a_row, recent = int(figures["skipped_in_a_row"]), int(figures["skipped_in_window"])
    if in_a_row >= guard.patience:
        return f"the last {in_a_row} steps were skipped, all of them; {last_skip(figures)}"
    if recent >= RECENT_FACTOR * guard.patience:
        return f"{recent} of the last {guard.window} steps were skipped; {last_skip(figures)}"
    return None


def last_skip(figures: Mapping[str, float]) -> str:
    """What the last skipped step was, and what it was held against, for a note or a reason."""
    told = []
    for name, what in (("loss", "loss"), ("norm", "gradient norm")):
        value, limit = figures[f"skip_{name}"], figures[f"skip_{name}_limit"]
        shown = f"{value:.4g}" if math.isfinite(value) else "not finite"
        told.append(f"{what} {shown}" + (f" (limit {limit:.4g})" if math.isfinite(limit) else ""))
    return f"the last of them had {' and '.join(told)}"


def remember(losses: Sequence[float | None], loss: float | None) -> list[float | None]:
    """`losses` and the new reading, as `diverged` takes them: the first finite one stays (it says from where the
    training came), with the last REMEMBERED. Not finite is written as None."""
    known = [*losses, loss if _finite(loss) else None]
    if len(known) <= REMEMBERED:
        return known
    return [next(filter(_finite, known), None), *known[1 - REMEMBERED :]]


def diverged(losses: Sequence[float | None]) -> str | None:
    """The loss has left its level for the last READS readings, or had no finite value in them.

    `losses` (see `remember`) are logged means of the training loss, in order. The level is the lowest median of READS
    consecutive ones before the last READS. Far above it means all of: half of the way back to the first reading (but no
    more than twice the level, or a tenth of the way if that is more), 4 robust deviations of the difference between
    neighbours, and 5 %. So noise, a plateau and a stage with a somewhat higher loss are no alarm, and a model that has
    forgotten half of what it learned is, whatever the unit. With fewer than READS earlier readings, nothing is known
    but where the training began: half as much again is the limit. After llm-foundry's KillLossSpike.
    """
    last, earlier = losses[-READS:], [loss for loss in losses[:-READS] if _finite(loss)]
    if len(last) < READS:
        return None
    if not any(_finite(loss) for loss in last):
        return f"the loss had no finite value at the last {READS} readings"
    if not earlier:
        return None
    level, limit = _level(earlier)
    if any(_finite(loss) and loss <= limit for loss in last):
        return None
    shown = ", ".join(f"{loss:.4g}" if _finite(loss) else "not finite" for loss in last)
    return f"the loss was {shown} at the last {READS} readings, far above its level of {level:.4g} (limit {limit:.4g})"


def healthy(losses: Sequence[float | None]) -> bool:
    """Whether the last reading is on the level of those before it, so that a rollback may return to here."""
    if not losses:
        return True
    earlier, last = [loss for loss in losses[:-1] if _finite(loss)], losses[-1]
    return _finite(last) and (not earlier or last <= _level(earlier)[1])


def _level(earlier: Sequence[float]) -> tuple[float, float]:
    """The level of the readings, and the limit above which it is left."""
    if len(earlier) < READS:
        return earlier[0], earlier[0] + abs(earlier[0]) / 2
    level = min(median(earlier[first : first + READS]) for first in range(len(earlier) - READS + 1))
    learned = max(0.0, earlier[0] - level)
    # Of differences, because the readings themselves have a trend; two of them make one difference.
    noise = NORMAL * median(abs(b - a) for a, b in pairwise(earlier)) / math.sqrt(2)
    half_way = min(learned / 2, max(abs(level), learned / 10))
    return level, level + max(half_way, SIGMAS * noise, 0.05 * abs(level))


def stop_early(validations: Sequence[Mapping[str, Any]], guard: Guard) -> str | None:
    """More steps are of no use: no better score for `stop_after` validations, or overfitting for `stop_overfit`.

    `validations` are {"step", "score", "train_loss"} in order: `score` of the chosen metric (lower is better, None if
    it was not finite) and `train_loss` the mean training loss since the validation before.
    Overfitting is a validation with a worse score than the one before although the training loss is lower.
    """
    scores = [entry["score"] for entry in validations]
    if guard.stop_after is not None:
        finite = [place for place, score in enumerate(scores) if _finite(score)]
        best = min(finite, key=lambda place: scores[place]) if finite else -1
        since = len(scores) - 1 - best
        if since >= guard.stop_after:
            held = f"since step {validations[best]['step']} ({scores[best]:.6g})" if finite else "at all"
            return f"the score has not improved for {since} validations: none was better {held}"
    if guard.stop_overfit is not None and len(validations) > guard.stop_overfit:
        last = validations[-guard.stop_overfit - 1 :]
        if all(_overfitted(before, now) for before, now in pairwise(last)):
            score, trained = ([entry[name] for entry in last] for name in ("score", "train_loss"))
            return (
                f"overfitting: {guard.stop_overfit} validations in a row had a worse score and a lower training "
                f"loss than the one before ({score[0]:.6g} to {score[-1]:.6g}, {trained[0]:.6g} to {trained[-1]:.6g})"
            )
    return None


def _overfitted(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    values = (before["score"], now["score"], before["train_loss"], now["train_loss"])
    return (
        all(_finite(value) for value in values)
        and now["score"] > before["score"]
        and (now["train_loss"] < before["train_loss"])
    )


def _finite(value: Any) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)

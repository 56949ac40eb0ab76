"""The learning rate as a plain function of the optimizer step: no state to save, to resume, or to run past the end.

A schedule that counts its own calls goes wrong where calls and steps differ (left-over micro-batches made one run's
cosine turn round and rise again). Here the step is given, and every step beyond the last has the last one's rate.
"""

from __future__ import annotations

import math

from partimento.config import Optim
from partimento.errors import PartimentoError


def shape(step: int, optim: Optim, steps: int) -> float:
    """Share in [0, 1] of every group's peak rate that holds at the 0-based optimizer step, of `steps` in all.

    Linear warm-up: (step + 1) / warmup, so that the first step moves. Then, by `optim.schedule`:
    cosine       half a cosine, from 1 to `min_lr` at the last step (SGDR without restarts, Loshchilov and Hutter 2017)
    linear       down to 0 one step after the last, so that the last one still moves
    exponential  by a constant factor a step, to `min_lr` at the last one
    wsd          1, then for the last `decay_share` of all steps linearly to `min_lr` (Hu et al. 2024)
    constant     1
    It is 0 at the last step of a cosine or wsd with `min_lr` 0, and above 0 everywhere else.

    Raises TRAIN013 for an exponential schedule whose `min_lr` is 0.
    """
    check(optim)
    step = min(step, steps - 1)
    if step < optim.warmup:
        return (step + 1) / optim.warmup
    start, last = optim.warmup, steps - 1
    match optim.schedule:
        case "cosine":
            return optim.min_lr + (1 - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * _progress(step, start, last)))
        case "linear":
            return 1 - _progress(step, start, last + 1)
        case "exponential":
            return optim.min_lr ** _progress(step, start, last)
        case "wsd":
            # The last stable step; the decay takes its share of all steps, as far as the warm-up leaves them.
            stable = max(start - 1, last - max(1, round(optim.decay_share * steps)))
            return 1 - (1 - optim.min_lr) * _progress(step, stable, last)
        case "constant":
            return 1.0


def check(optim: Optim) -> None:
    """Raises TRAIN013 for a schedule that cannot be followed."""
    if optim.schedule == "exponential" and optim.min_lr == 0:
        raise PartimentoError(
            "TRAIN013",
            "an exponential schedule cannot end at 0",
            why="optim.min_lr is 0, and no constant factor leads there",
            next="set optim.min_lr=0.01, or optim.schedule=linear",
        )


def _progress(step: int, start: int, end: int) -> float:
    """0 up to `start`, 1 from `end` on."""
    return min(1.0, max(0, step - start) / max(1, end - start))

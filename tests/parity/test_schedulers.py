"""Our schedules against torch's schedulers, at every step: equal to 1e-9 relative (torch multiplies its way there)."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from partimento.config import Optim
from partimento.training.schedule import shape

WARMUP, STEPS = 7, 50


def theirs(schedule: str, min_lr: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    rise = lr_scheduler.LinearLR(optimizer, 1 / WARMUP, 1.0, total_iters=WARMUP - 1)
    left = STEPS - WARMUP
    match schedule:
        case "cosine":
            falls = [lr_scheduler.CosineAnnealingLR(optimizer, T_max=left - 1, eta_min=min_lr)]
        case "linear":
            falls = [lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=left)]
        case "exponential":
            falls = [lr_scheduler.ExponentialLR(optimizer, min_lr ** (1 / (left - 1)))]
        case "constant":
            falls = [lr_scheduler.ConstantLR(optimizer, 1.0)]
        case _:
            decay = lr_scheduler.LinearLR(optimizer, 1.0, min_lr, total_iters=10)
            falls = [lr_scheduler.ConstantLR(optimizer, 1.0), decay]
    milestones = [WARMUP, STEPS - 11][: len(falls)]
    scheduler = lr_scheduler.SequentialLR(optimizer, [rise, *falls], milestones=milestones)
    rates = []
    with warnings.catch_warnings():  # of torch about a deprecated argument in its own SequentialLR
        warnings.simplefilter("ignore")
        for _ in range(STEPS):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential", "constant", "wsd"])
def test_every_step_has_torchs_rate(schedule: str) -> None:
    optim = Optim(schedule=schedule, warmup=WARMUP, min_lr=0.1, decay_share=0.2)
    assert [shape(step, optim, STEPS) for step in range(STEPS)] == pytest.approx(theirs(schedule, 0.1), rel=1e-9)

"""What the log tells of the noise of the gradient, and of a step that was skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_engine import toy, toy_config
from toy import ToyTask

from partimento.runs.events import read_events


def lines(path: Path) -> list[dict[str, object]]:
    return [event for event in read_events(path) if event["kind"] == "train"]


def test_both_squares_are_those_of_the_gradients(tmp_path: Path) -> None:
    """Of the first step, whose weights are known: the gradients are computed again, without the engine."""
    make = lambda config, device, *_: ToyTask(config, device, dropout=0.0)  # noqa: E731
    config = toy_config(optim__batch=2, optim__accumulate=3, train__steps=1, train__log_every=1)
    begun: list[ToyTask] = []

    def kept(*args: object, **kwargs: object) -> ToyTask:
        begun.append(make(*args, **kwargs))
        begun[0].before = [weight.detach().clone() for weight in begun[0].module.parameters()]
        return begun[0]

    (line,) = lines(toy(config, tmp_path, "r", kept).events_path)
    task = begun[0]
    with torch.no_grad():
        for weight, before in zip(task.module.parameters(), task.before, strict=True):
            weight.copy_(before)
    sums, tokens = [], []
    for micro in range(3):
        task.module.zero_grad()
        total, seen = task.objective(*task.inputs(task.batch(0, micro)))
        total.backward()
        sums.append(torch.cat([weight.grad.flatten() for weight in task.module.parameters()]))
        tokens.append(float(seen["tokens"]))
    assert line["noise_small"] == pytest.approx(float((sums[0] / tokens[0]).square().sum()), rel=1e-4)
    assert line["noise_big"] == pytest.approx(float((sum(sums) / sum(tokens)).square().sum()), rel=1e-4)


def test_a_step_of_one_micro_batch_tells_nothing_of_it(tmp_path: Path) -> None:
    for line in lines(toy(toy_config(train__steps=2), tmp_path, "r").events_path):
        assert "noise_small" not in line and "noise_big" not in line


def test_a_skipped_step_leaves_what_it_was_held_against(tmp_path: Path) -> None:
    def make(config: object, device: torch.device, *_: object) -> ToyTask:
        task = ToyTask(config, device)
        task.spoil[3] = float("nan")
        return task

    found = lines(toy(toy_config(train__steps=6, train__log_every=1), tmp_path, "r", make).events_path)
    assert [line["step"] for line in found if "skip" in line] == [4]
    assert set(found[3]["skip"]) == {"loss", "norm", "loss_limit", "norm_limit"} and found[3]["skip"]["loss"] is None

"""Two players in one engine: who steps when and by what, waves that are made once, and ranks that train as one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import players
import pytest
import torch

from partimento.runs import checkpoint
from partimento.runs.events import read_events
from partimento.training import launch
from partimento.training.engine import train
from partimento.training.tasks import sound

PLAN = {"steps": 4, "valid_every": 1000, "save_every": 1}


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return players.write_takes(tmp_path_factory.mktemp("sound") / "takes")


def saved(runs: Path, run: str, step: int, part: str) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(runs / run / "checkpoints" / f"step-{step:09d}").parts[part])


def moved(runs: Path, run: str, step: int, part: str) -> bool:
    """Whether a part of the checkpoint changed in step `step` (1-based)."""
    before, now = (saved(runs, run, number, part) for number in (step - 1, step))
    return any(not torch.equal(before[name], now[name]) for name in now)


def test_each_steps_when_it_is_to(takes: Path, tmp_path: Path) -> None:
    """From step 1 (0-based) on, every second step: of the steps 1 to 5 the second and the fourth."""
    plan = PLAN | {"steps": 5, "keep": 9}
    train(players.config(takes, train=plan, adversary={"start": 1, "every": 2}), runs=tmp_path, run="run")
    assert [moved(tmp_path, "run", step, "model") for step in (2, 3, 4, 5)] == [True] * 4
    assert [moved(tmp_path, "run", step, "adversary") for step in (2, 3, 4, 5)] == [True, False, True, False]
    lines = players.figures(tmp_path, "run")
    assert ["score_real_S" in line for line in lines] == [False, True, False, True, False]
    assert [line["pull_adversarial"] > 0 for line in lines] == [False, True, True, True, True]
    assert lines[0]["adversarial"] == 0 and lines[2]["adversarial"] > 0  # it is heard between its steps, too


@pytest.mark.parametrize("family", ["restore", "codec"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_both_players_by_both_optimizers(takes: Path, tmp_path: Path, family: str, name: str) -> None:
    optim = {"name": name, "muon_lr": 1e-3}
    config = players.config(takes, family, train=PLAN, optim=optim, adversary={"lr": 3e-4, "betas": [0.5, 0.9]})
    train(config, runs=tmp_path, run="run")
    begun = next(event for event in read_events(tmp_path / "run" / "events.jsonl") if event["kind"] == "start")
    for table, rate in ((begun["optimizer"], 1e-3), (begun["adversary"], 3e-4)):
        rows = {row["optimizer"]: row for row in table}
        assert ("muon" in rows) == (name == "muon") and rows["adamw"]["rate"] == rate
        if name == "muon":
            assert rows["muon"]["tensors"] >= 4 and rows["muon"]["rate"] == 1e-3
    assert moved(tmp_path, "run", 4, "model") and moved(tmp_path, "run", 4, "adversary")
    lines = players.figures(tmp_path, "run")
    assert all(line["skipped"] == line["adversary_skipped"] == 0 for line in lines)


def test_waves_that_are_made_once_are_those_that_would_be_made_twice(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []
    train(players.config(takes, train=PLAN), runs=tmp_path, run="once")
    init = sound.RivalObjective.__init__

    def anew(self: Any, discriminators: Any, objective: Any, keeps: bool) -> None:
        made.append(keeps)
        init(self, discriminators, objective, False)

    monkeypatch.setattr(sound.RivalObjective, "__init__", anew)
    train(players.config(takes, train=PLAN), runs=tmp_path, run="twice")
    assert made == [True]
    assert players.same_bits(players.end(tmp_path, "once"), players.end(tmp_path, "twice")) == []


GAMES: dict[str, dict[str, Any]] = {
    "restore": {"optim": {"accumulate": 2}, "train": PLAN, "adversary": {"start": 1}},
    "codec": {"family": "codec", "train": PLAN},
}


@pytest.mark.parametrize("name", list(GAMES))
def test_two_ranks_train_what_one_process_does(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    train(players.config(takes, **GAMES[name]), runs=tmp_path, run=name)
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, players.__file__))
    wanted = json.dumps([{"run": name, **GAMES[name]}])
    assert launch.spawn(2, [str(tmp_path / "two"), str(takes), wanted]) == 0
    one, two = players.figures(tmp_path, name), players.figures(tmp_path / "two", name)
    for figure, tolerance in (("loss", 1e-4), ("mel7", 1e-4), ("adversary_loss", 1e-4), ("grad_norm", 1e-3)):
        values = [[line[figure] for line in lines if figure in line] for lines in (one, two)]
        assert values[0] and values[1] == pytest.approx(values[0], rel=tolerance), figure
    ends = players.end(tmp_path, name), players.end(tmp_path / "two", name)
    for part in (part for part in ends[0] if part.startswith(("model/", "adversary/"))):
        torch.testing.assert_close(ends[1][part], ends[0][part], rtol=1e-2, atol=2e-3, msg=part)

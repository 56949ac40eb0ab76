"""Two players in one engine: who steps when and by what, waves that are made once, and ranks that train as one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import players
import pytest
import torch

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.events import read_events
from partimento.training import engine, launch, session
from partimento.training.engine import train
from partimento.training.opponent import Opponent
from partimento.training.optim import Optimizers
from partimento.training.tasks import make_task, sound

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


def test_the_adversary_steps_first_and_is_taken_in_slowly(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, float]] = []
    clips: list[float] = []
    step, clip = Optimizers.step, engine.clip_global_

    def noted(self: Optimizers, bad: torch.Tensor, rate: float) -> None:
        calls.append((id(self), rate))
        step(self, bad, rate)

    monkeypatch.setattr(Optimizers, "step", noted)
    monkeypatch.setattr(engine, "clip_global_", lambda *given: (clips.append(given[-1]), clip(*given)))
    keys = {"train": PLAN | {"steps": 6}, "optim": {"warmup": 4, "schedule": "constant"}}
    train(players.config(takes, **keys, adversary={"start": 4, "clip": 7.0}), runs=tmp_path, run="run")
    assert clips == [1000.0] * 4 + [7.0, 1000.0] * 2
    assert [rate for _, rate in calls] == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.25, 1.0, 0.5, 1.0])
    network, adversary = calls[0][0], calls[4][0]
    assert [player for player, _ in calls[4:]] == [adversary, network] * 2 and network != adversary


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


def test_gradients_of_distances_are_not_rounded_by_the_networks_precision(takes: Path) -> None:
    objective = make_task(players.config(takes, adversary={"start": None}), torch.device("cpu")).objective
    assert isinstance(objective, sound.SoundObjective)
    target_BN, gradients = torch.randn(2, 4096) / 9, []
    for half in (False, True):
        wave_BN = (torch.sin(torch.arange(8192.0)) / 9).reshape(2, 4096).requires_grad_()
        objective.kept = sound.Made(wave_BN, target_BN, torch.zeros(()), {})
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            total, _ = objective(torch.ones(len(sound.DISTANCES)), None)
        total.backward()
        gradients.append(wave_BN.grad)
    assert torch.equal(*gradients)


def test_a_network_is_not_taken_for_lost_by_what_the_adversary_thinks(takes: Path, tmp_path: Path) -> None:
    loss = {"adversarial": 50.0, "features": 100.0}
    train(players.config(takes, train=PLAN, loss=loss, adversary={"start": 2}), runs=tmp_path, run="run")
    lines = players.figures(tmp_path, "run")
    heard = [line["opinions"] for line in lines]
    assert heard[:2] == [0, 0] and min(heard[2:]) > lines[0]["loss"]
    for line, share in zip(lines[2:], (0.5, 1.0), strict=True):  # a warm-up of two steps
        opinions = share * (50 * line["adversarial"] + 100 * line["features"])
        assert line["opinions"] == pytest.approx(opinions, rel=1e-5)
    # At step 2 what was usual is forgotten, but for the first reading.
    left = [line["loss"] - line["opinions"] for line in (lines[0], *lines[2:])]
    assert players.state(tmp_path, "run")["losses"] == pytest.approx(left, rel=1e-4)


def test_both_players_are_rehearsed_without_a_trace(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"train": PLAN | {"stages": [{"start": 2, "window": 2048}]}, "adversary": {"start": 3}}
    shapes: list[tuple[int, int]] = []
    both = Opponent.forward_backward

    def noted(self: Opponent, inputs: Any) -> Any:
        shapes.append((inputs[0].shape[1], len(inputs[-2])))
        return both(self, inputs)

    monkeypatch.setattr(Opponent, "forward_backward", noted)
    train(players.config(takes, "codec", **keys), runs=tmp_path, run="rehearsed")
    # Two stages, the second with both players; the audit of who learns; step 3.
    assert shapes == [(4096, 4), (2048, 6), (4096, 4), (2048, 6)]
    guards = saved(tmp_path, "rehearsed", 4, "guard")  # step 3 began anew, in which the adversary came
    assert [int(guards[name]) for name in ("guard/accepted", "adversary_guard/accepted")] == [1, 1]
    monkeypatch.setattr(session, "rehearse", lambda state: None)
    train(players.config(takes, "codec", **keys), runs=tmp_path, run="not")
    assert len(shapes) == 6
    assert players.same_bits(players.end(tmp_path, "rehearsed"), players.end(tmp_path, "not")) == []


def test_what_the_adversary_did_before_a_kill_is_in_the_next_line_of_the_log(takes: Path, tmp_path: Path) -> None:
    config = players.config(takes, train=PLAN | {"log_every": 4, "save_every": 3, "keep": 9})
    train(config, runs=tmp_path, run="run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000000004")
    train(config, runs=tmp_path, run="run")
    one, two = (event for event in read_events(tmp_path / "run" / "events.jsonl") if event["kind"] == "train")
    for name in ("adversary_loss", "adversary_grad_norm", "accuracy_real", "score_fake_S", "opinions"):
        assert one[name] == two[name], name


def test_both_guards_begin_anew_with_a_stage(takes: Path, tmp_path: Path) -> None:
    train(players.config(takes, train=PLAN | {"stages": [{"start": 3, "window": 2048}]}), runs=tmp_path, run="run")
    guards = saved(tmp_path, "run", 4, "guard")
    assert [int(guards[name]) for name in ("guard/accepted", "adversary_guard/accepted")] == [1, 1]


def test_no_rollback_leads_to_where_the_adversary_was_skipped(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(players.config(takes, train=PLAN), runs=tmp_path, run="well")
    monkeypatch.setattr(
        sound,
        "discriminator_loss",
        lambda real, fake: sum(one.score.mean() for one in (*real, *fake)) * torch.full((2,), torch.nan),
    )
    train(players.config(takes, train=PLAN), runs=tmp_path, run="ill")
    assert players.state(tmp_path, "well")["good"] and not players.state(tmp_path, "ill")["good"]
    last = players.figures(tmp_path, "ill")[-1]
    assert (last["skipped"], last["adversary_skipped"]) == (0, 4)


@pytest.mark.parametrize("family", ["restore", "codec"])
def test_steps_of_sound_are_not_recorded(takes: Path, family: str) -> None:
    with pytest.raises(PartimentoError, match="TRAIN042"):
        make_task(players.config(takes, family, train={"cuda_graphs": True}), torch.device("cpu"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_adversary_that_is_not_heard_changes_nothing(takes: Path, tmp_path: Path, accumulate: int) -> None:
    """Neither weights, nor books, which would move further if they noted what is made for the adversary."""
    keys = {"train": PLAN, "optim": {"accumulate": accumulate}, "loss": {"adversarial": 0.0, "features": 0.0}}
    train(players.config(takes, "codec", **keys), runs=tmp_path, run="two")
    train(players.config(takes, "codec", **keys, adversary={"start": None}), runs=tmp_path, run="one")
    ends = players.end(tmp_path, "two"), players.end(tmp_path, "one")
    one, two = ({name: end[name] for name in end if name.startswith(("model/", "ema/"))} for end in ends)
    assert players.same_bits(one, two) == []


def test_silence_weighs_nothing_with_either_player(takes: Path) -> None:
    """Of three items one has a silent target, and one has nothing made: the opinions are those of the first alone."""
    task = make_task(players.config(takes), torch.device("cpu"))
    assert task.rival is not None
    loud_N, other_N = 0.1 * torch.randn(2, 4096, generator=torch.Generator().manual_seed(1))
    silent_N = torch.zeros(4096)
    weights_P = torch.tensor([15.0, 0.0, 150.0, 0.0, 1.0, 2.0])
    three = torch.stack([loud_N, loud_N, silent_N]), torch.stack([other_N, silent_N, other_N])
    one = loud_N[None], other_N[None]  # the network begins as the identity
    (total, sums), (_, heard) = (player.objective(*three, weights_P, None) for player in (task.rival, task))
    (alone, wanted), (_, opinions) = (player.objective(*one, weights_P, None) for player in (task.rival, task))
    assert (sums["tokens"], sums["heard"], wanted["heard"]) == (3, 1, 1)
    torch.testing.assert_close(total, alone)
    for name in ("score_real_S", "score_fake_S", "accuracy_real", "accuracy_fake"):
        torch.testing.assert_close(sums[name], wanted[name])
    for name in ("adversarial", "features", "opinions"):
        assert opinions[name] > 0
        torch.testing.assert_close(heard[name], opinions[name])
    assert opinions["opinions"] == opinions["adversarial"] + 2 * opinions["features"]


def test_usual_norms_follow_the_parts_without_their_weights(takes: Path) -> None:
    config = players.config(takes, loss={"balance": True}, optim={"warmup": 4})
    task, other = (make_task(config, torch.device("cpu")) for _ in range(2))
    assert isinstance(task, sound.SoundTask) and isinstance(other, sound.SoundTask)

    def step(number: int, size: float, bad: bool = False) -> tuple[float, float]:
        """(norm of the mel distance, norm of the adversary's opinion), after a step in which both were `size`."""
        weights_P, _ = task.weighted(number)
        assert weights_P is not None
        mel, adversarial = (3 * size * float(weights_P[place]) for place in (0, 4))
        sums = {
            "tokens": torch.tensor(3.0),
            "pull_mel": torch.tensor(mel),
            "pull_adversarial": torch.tensor(adversarial),
        }
        task.after_step(number, torch.tensor(bad), sums)
        norms_P = task.weighted(number)[1]
        assert norms_P is not None
        return float(norms_P[0]), float(norms_P[4])

    assert step(0, 2.0) == pytest.approx((2.0, 2.0))
    assert step(1, 4.0) == pytest.approx((2.1, 2.1))
    assert step(2, float("nan"), bad=True) == pytest.approx((2.1, 2.1))
    other.remember(task.memory())
    assert torch.equal(*(one.weighted(0)[1] for one in (task, other)))  # type: ignore[arg-type]
    assert other.weighted(0)[1][0] > 2  # type: ignore[index]


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


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ({"strides": [2, 2]}, "TRAIN062"),
        ({"net": "patch", "strides": [3, 3], "hop": None, "width": 32}, "TRAIN062"),
        ({"weights": "nowhere"}, "RESTORE001"),
    ],
)
def test_networks_that_cannot_be_are_told(takes: Path, model: dict[str, Any], code: str) -> None:
    with pytest.raises(PartimentoError) as caught:
        make_task(players.config(takes, model=model), torch.device("cpu"))
    assert caught.value.code == code

"""Two players: faults that are planted raise their alarms and a sound game raises none; what kill -9 leaves goes on,
and ends in the bits of a run that nobody disturbed. The real engine and tasks, tiny networks, made-up recordings."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "training"))

import players

from partimento.errors import PartimentoError
from partimento.runs import checkpoint
from partimento.runs.events import read_events
from partimento.training.engine import train
from partimento.training.tasks import sound
from partimento.training.tasks.sound import Made, SoundObjective

STRONG = {"period_width": 8, "window_width": 8}
ONCE = {"valid_every": 1000, "save_every": 1000}


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return players.write_takes(tmp_path_factory.mktemp("sound") / "takes")


def alarms(takes: Path, runs: Path, steps: int, family: str = "restore", **sections: Any) -> list[tuple[int, str]]:
    optim = {"schedule": "constant"} | sections.pop("optim", {})
    plan = {"steps": steps, **ONCE} | sections.pop("train", {})
    train(players.config(takes, family, train=plan, optim=optim, **sections), runs=runs, run="run")
    return players.alarms(runs, "run")


@pytest.mark.parametrize(("family", "steps"), [("restore", 24), ("codec", 24)])
def test_a_sound_game_raises_none(takes: Path, tmp_path: Path, family: str, steps: int) -> None:
    """Longer ones are in docs/guards.md."""
    assert alarms(takes, tmp_path, steps, family, adversary=STRONG) == []


def test_ten_times_the_discriminators_rate(takes: Path, tmp_path: Path) -> None:
    """With everything else as in the sound game: its gradient norm leaves its level, or it wins."""
    found = alarms(takes, tmp_path, 24, adversary={**STRONG, "lr": 1e-2})
    assert found and {kind for _, kind in found} <= {"norm spike", "adversary wins"}


@pytest.mark.slow
def test_ten_times_the_rate_whatever_is_drawn(takes: Path, tmp_path: Path) -> None:
    """Six games with each rate. Seen: none of the sound ones and five of the others had an alarm, or were given up."""
    told: dict[float, list[bool]] = {1e-3: [], 1e-2: []}
    for rate, found in told.items():
        for number, (family, seed) in enumerate((f, s) for f in ("restore", "codec") for s in range(3)):
            plan, run = {"steps": 80, "seed": seed, **ONCE}, f"{rate}-{number}"
            adversary = {**STRONG, "lr": rate}
            config = players.config(takes, family, train=plan, optim={"schedule": "constant"}, adversary=adversary)
            try:
                train(config, runs=tmp_path, run=run)
                found.append(bool(players.alarms(tmp_path, run)))
            except PartimentoError as err:
                assert err.code == "TRAIN004"
                found.append(True)
    assert sum(told[1e-3]) <= 1 and sum(told[1e-2]) >= 5, told


@pytest.mark.slow
def test_an_adversary_that_wins(takes: Path, tmp_path: Path) -> None:
    """The codec hardly learns, and its adversary does."""
    strong, slow = {**STRONG, "lr": 2e-3}, {"lr": 1e-6}
    found = alarms(takes, tmp_path, 160, "codec", optim=slow, adversary=strong, train={"log_every": 4})
    assert "adversary wins" in {kind for _, kind in found}


def test_labels_swapped_for_the_adversary(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = sound.discriminator_loss
    monkeypatch.setattr(sound, "discriminator_loss", lambda real, fake: right(fake, real))
    found = alarms(takes, tmp_path, 36, "codec", optim={"lr": 1e-5}, adversary={**STRONG, "lr": 2e-3})
    assert found[0][1] == "labels swapped"


def test_labels_swapped_for_the_generator(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pushed_away(fake: list[Any]) -> Tensor:
        return torch.stack([one.score.square().flatten(1).mean(1) for one in fake]).sum(0)

    monkeypatch.setattr(sound, "generator_loss", pushed_away)
    assert alarms(takes, tmp_path, 8) == [(3, "labels swapped")]


def test_a_dead_gradient(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The opinion is asked of a wave from which nothing comes back."""
    right = SoundObjective._opinions

    def dead(self: SoundObjective, made: Made) -> dict[str, Tensor]:
        wave_BN = made.wave_BN.detach() + 0 * made.wave_BN
        return right(self, Made(wave_BN, made.target_BN, made.inner, made.inner_figures))

    monkeypatch.setattr(SoundObjective, "_opinions", dead)
    assert set(alarms(takes, tmp_path, 8)) == {(3, "dead generator gradient")}


def test_a_detach_does_not_even_begin(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = SoundObjective._opinions

    def cut(self: SoundObjective, made: Made) -> dict[str, Tensor]:
        return right(self, Made(made.wave_BN.detach(), made.target_BN, made.inner, made.inner_figures))

    monkeypatch.setattr(SoundObjective, "_opinions", cut)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        alarms(takes, tmp_path, 8)


# kill -9

GAMES: dict[str, dict[str, Any]] = {
    "a warm start, two micro-batches": {
        "adversary": {"start": 3}, "optim": {"accumulate": 2}, "train": {"steps": 8, "save_every": 2},
    },
    "muon, every second step, balanced": {
        "adversary": {"start": 0, "every": 2, "optimizer": "muon", "muon_lr": 2e-3}, "loss": {"balance": True},
        "optim": {"name": "muon", "muon_lr": 2e-3}, "train": {"steps": 8, "save_every": 1},
    },
    "a codec": {"family": "codec", "adversary": {"start": 2}, "train": {"steps": 8, "save_every": 2}},
}  # fmt: skip


LOGGED = ("loss", "grad_norm", "mel7", "adversary_loss", "adversary_grad_norm", "score_fake_S")


def killed(runs: Path, takes: Path, game: dict[str, Any], after: int) -> None:
    """A process of the run, killed as soon as step `after` is logged (or at its end)."""
    words = [sys.executable, str(Path(players.__file__)), str(runs), str(takes), json.dumps([{"run": "run", **game}])]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    events = runs / "run" / "events.jsonl"
    while child.poll() is None and not any(
        event["kind"] == "train" and event["step"] >= after for event in read_events(events)
    ):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.communicate()[1] == "" or child.returncode == -signal.SIGKILL
    for path in checkpoint.visible(runs / "run" / "checkpoints"):
        checkpoint.verify(path)


def resumes(takes: Path, folder: Path, game: dict[str, Any], moments: list[int]) -> None:
    make: Callable[[], Any] = lambda: players.config(takes, **json.loads(json.dumps(game)))  # noqa: E731
    train(make(), runs=folder / "whole", run="run")
    for after in moments:
        killed(folder / "killed", takes, game, after)
    train(make(), runs=folder / "killed", run="run")
    whole, other = (players.end(folder / which, "run") for which in ("whole", "killed"))
    assert players.same_bits(whole, other) == []
    rooms = {name.split("/")[0] for name in whole}
    assert rooms == {"model", "ema", "optimizer", "guard", "adversary", "adversary_optimizer", "step"}
    assert any(name.startswith("guard/adversary_guard") for name in whole)
    kinds = [event["kind"] for event in read_events(folder / "killed" / "run" / "events.jsonl")]
    assert "resume" in kinds
    logs = [players.figures(folder / which, "run") for which in ("whole", "killed")]
    told = [[{name: line.get(name) for name in LOGGED} for line in lines] for lines in logs]
    assert told[0] == told[1] and len(told[0]) == 8
    alarms = [players.state(folder / which, "run")["alarms"] for which in ("whole", "killed")]
    assert alarms[0] == alarms[1] and alarms[0]["norms"]


def test_killed_before_the_adversary_begins_and_after(takes: Path, tmp_path: Path) -> None:
    resumes(takes, tmp_path, GAMES["a warm start, two micro-batches"], [2, 5])


@pytest.mark.slow
@pytest.mark.parametrize("game", list(GAMES))
def test_killed_at_every_other_step(takes: Path, tmp_path: Path, game: str) -> None:
    resumes(takes, tmp_path, GAMES[game], [1, 3, 5, 7])

"""Preflight of the families that make sound: nothing is found in a sound configuration, and each planted fault is."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

sys.path.append(str(Path(__file__).parents[1] / "training"))

import players

from partimento.config import Config
from partimento.lab.preflight import Check, preflight
from partimento.lab.preflight.bench import Bench
from partimento.lab.preflight.sound import awake
from partimento.training.tasks import pairs, restore, sound


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return players.write_takes(tmp_path_factory.mktemp("sound") / "takes", number=24)


def config(takes: Path, family: str = "restore", **sections: Any) -> Config:
    return players.config(takes, family, **{"data": {"crop": 8192}, **sections})


def found(config: Config, runs: Path) -> dict[str, Check]:
    return {check.name: check for check in preflight(config, runs=runs)}


@pytest.mark.parametrize("family", ["restore", "codec"])
@pytest.mark.parametrize("start", [0, None])
def test_a_sound_configuration_passes(takes: Path, tmp_path: Path, family: str, start: int | None) -> None:
    checks = found(config(takes, family, adversary={"start": start}), tmp_path)
    assert not [check for check in checks.values() if check.status == "failed"]
    assert {"splits", "silence", "length", "gradients", "one batch", "rate"} <= {
        name for name, check in checks.items() if check.status == "ok"
    }
    assert (checks["players"].status == "ok") == (start == 0)
    assert (checks["delay"].status == "ok") == (checks["identity"].status == "ok") == (family == "restore")


def test_a_shifter_that_is_late(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pairs.Shifted.excerpt

    def late(self: pairs.Shifted, *args: Any) -> tuple[Any, Any]:
        damaged_N, target_N = right(self, *args)
        return np.roll(damaged_N, round(0.05 * players.RATE)), target_N

    monkeypatch.setattr(pairs.Shifted, "excerpt", late)
    check = found(config(takes), tmp_path)["delay"]
    assert check.status == "failed" and "ms after its target" in check.found


def test_a_copy_on_the_other_side(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pairs.gather

    def leaking(*args: Any) -> Any:
        sound = right(*args)
        copy = dataclasses.replace(sound.held_out[0], source="copy.wav", group="copy.wav")
        return dataclasses.replace(sound, train=[*sound.train, copy])

    monkeypatch.setattr(pairs, "gather", leaking)
    check = found(config(takes), tmp_path)["splits"]
    assert check.status == "failed" and "sha256" in check.found


def test_recordings_that_are_nearly_silent(takes: Path, tmp_path: Path) -> None:
    (tmp_path / "takes").mkdir()
    for file in takes.iterdir():
        wave, _ = soundfile.read(file)
        soundfile.write(tmp_path / "takes" / file.name, np.pad(0.0001 * wave[:2000], (0, 30000)), players.RATE)
    assert found(config(tmp_path / "takes"), tmp_path)["silence"].status == "warn"


def test_crops_that_the_discriminators_cannot_see(takes: Path, tmp_path: Path) -> None:
    check = found(config(takes, data={"crop": 1024}, adversary={"windows": [2048]}), tmp_path)["data"]
    assert check.status == "failed" and "1153" in check.found and "data.crop=" in str(check.remedy)
    assert found(config(takes, data={"crop": 2048}), tmp_path)["length"].status == "warn"


def test_a_network_that_does_not_begin_as_the_identity(
    takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = restore.make_generator

    def loud(network: Any) -> Any:
        module = right(network)
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(0.01)
        return module

    monkeypatch.setattr(restore, "make_generator", loud)
    assert found(config(takes), tmp_path)["identity"].status == "failed"


def test_a_loss_that_moves_the_other_player(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "_through_the_wave", lambda wave, values, weights, total, norms, names: (total, {}))
    check = found(config(takes), tmp_path)["players"]
    assert check.status == "failed" and "the loss of the network moves adversary" in check.found


def test_a_loss_that_moves_nothing(takes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = sound.discriminator_loss
    monkeypatch.setattr(sound, "discriminator_loss", lambda real, fake: 0 * right(real, fake))
    check = found(config(takes), tmp_path)["players"]
    assert check.status == "failed" and "the loss of the adversary does not move" in check.found


def test_weights_are_as_they_were_after_they_were_awake(takes: Path, tmp_path: Path) -> None:
    bench = Bench(config(takes), tmp_path)
    module = bench.task.module
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    assert any(not weight.any() for weight in module.parameters())
    with awake(module):
        assert all(bool(weight.any()) for weight in module.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in module.state_dict().items())

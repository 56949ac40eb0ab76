"""Alarms: each on figures that show its fault, none on those of a sound training, and the same ones after a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from partimento.config import parse
from partimento.training import alarms
from partimento.training.alarms import BLOCK, BLOCKS, QUIET, REMEDIES, Alarms


def sound(reading: int, **other: Any) -> dict[str, Any]:
    """Figures of a training with two players as it should be, at reading 0, 1, ..."""
    rng = np.random.default_rng(reading)
    fake_S, real_S = (0.35 + 0.1 * rng.standard_normal(4), 0.65 + 0.1 * rng.standard_normal(4))
    return {
        "loss": 20.0,
        "skipped": 2,
        "adversary_skipped": 1,
        "grad_norm": 30 * math.exp(0.4 * rng.standard_normal()),
        "adversary_grad_norm": 2 * math.exp(0.4 * rng.standard_normal()),
        "score_real_S": real_S.tolist(),
        "score_fake_S": fake_S.tolist(),
        "accuracy_real": 0.7,
        "accuracy_fake": 0.72,
        "adversarial": float(((1 - fake_S) ** 2).sum() + 0.2),
        "features": 3.0,
        "pull_mel": 3.0,
        "pull_wave": 1.0,
        "pull_adversarial": 0.4,
        "pull_features": 0.8,
        **other,
    }


def scores(real: float, fake: float, right: tuple[float, float]) -> dict[str, Any]:
    return {
        "score_real_S": [real] * 4,
        "score_fake_S": [fake] * 4,
        "accuracy_real": right[0],
        "accuracy_fake": right[1],
        "adversarial": 4 * (1 - fake) ** 2 + 0.1,
    }


def raised(watch: Alarms, readings: Iterator[tuple[Mapping[str, Any], float]]) -> list[tuple[int, str]]:
    return [
        (number, alarm.kind)
        for number, (figures, rate) in enumerate(readings)
        for alarm in watch.read(10 * number, figures, rate)
    ]


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "wins": ("adversary wins", scores(0.98, 0.02, (1.0, 0.98))),
    "blind": ("adversary is blind", scores(0.501, 0.5, (0.52, 0.49))),
    "never learned": ("adversary is blind", scores(0.001, 0.0, (0.0, 1.0))),
    "swapped": ("labels swapped", scores(0.2, 0.8, (0.1, 0.1))),
    "swapped for the generator": ("labels swapped", {"score_fake_S": [0.1] * 4, "adversarial": 0.05}),
    "detached": ("dead generator gradient", {"pull_adversarial": 0.0}),
    "features lost": ("dead generator gradient", {"pull_features": 1e-7}),
    "frozen": ("dead generator gradient", {"grad_norm": 0.0}),
    "skips of the adversary": ("norm spike", {"adversary_skipped": 3}),
    "spike": ("norm spike", {"grad_norm": 800.0}),
    "spike of the adversary": ("norm spike", {"adversary_grad_norm": 60.0}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_alarm_and_only_that(name: str) -> None:
    kind, fault = FAULTS[name]
    watch = Alarms(1000.0, 10.0)
    last = 75 if kind == "adversary is blind" else 45
    found = raised(watch, ((sound(n, **(fault if 20 <= n < last else {})), 1.0) for n in range(90)))
    assert [told for _, told in found] == [kind], found
    assert 20 <= found[0][0] < 20 + (52 if kind == "adversary is blind" else 6)


def test_a_sound_training_raises_none() -> None:
    """And the rules have room: figures of every reading are drawn anew, for as long as a night's training."""
    watch = Alarms(1000.0, 10.0)
    assert raised(watch, ((sound(n), 1 - n / 3000) for n in range(3000))) == []


def test_a_text_says_what_was_seen_since_when_and_what_helps() -> None:
    watch = Alarms()
    found = [alarm for n in range(12) for alarm in watch.read(10 * n, sound(n, **FAULTS["wins"][1]), 1.0)]
    assert len(found) == 1 and found[0].remedy == REMEDIES["adversary wins"]
    assert "0.98 for recordings and 0.02 for what was made" in found[0].text and "since step 0" in found[0].text
    assert all("adversary.lr" in REMEDIES[kind] for kind in ("adversary wins", "adversary is blind"))


def test_raised_once_and_again_only_after_quiet() -> None:
    watch = Alarms()
    fault = FAULTS["detached"][1]

    def told(bad: range) -> bool:
        found = [watch.read(n, sound(n, **(fault if n in bad else {})), 1.0) for n in range(bad.start, bad.stop)]
        return any(found)

    assert told(range(0, 20))
    assert not watch.read(20, sound(20), 1.0)
    assert not told(range(21, 30))  # one good reading is no quiet
    for n in range(30, 30 + QUIET):
        assert not watch.read(n, sound(n), 1.0)
    assert told(range(40, 50))


def test_limits_are_those_of_the_configuration() -> None:
    tree = {"family": "codec", "loss": {"features": 0}, "optim": {"clip": 50.0}, "adversary": {"start": 0, "clip": 3.0}}
    watch = Alarms.of(parse(tree))
    assert watch.clips == {"": 50.0, "adversary_": 3.0} and watch.heard == {"adversarial"}
    assert raised(watch, ((sound(n, pull_features=0.0), 1.0) for n in range(20))) == []
    codes = Alarms.of(parse({"family": "rvq", "data": {"pack": "p"}, "optim": {"adagc": True}}))
    assert codes.clips == {"": None, "adversary_": None}


def test_norms_that_grow_while_the_rate_falls() -> None:
    def norms(grow: float) -> list[tuple[int, str]]:
        watch = Alarms()
        readings = (
            ({"grad_norm": sound(n)["grad_norm"] * grow ** (n / 400)}, 1 - n / 400) for n in range(400)
        )  # of any family
        return raised(watch, readings)

    assert norms(1.0) == norms(1.5) == norms(0.1) == []
    found = norms(6.0)
    assert {kind for _, kind in found} == {"norms grow while the rate falls"} and len(found) == 1
    # The rate alone, or the norm alone, is none.
    watch = Alarms()
    assert raised(watch, (({"grad_norm": 6 ** (n / 400)}, 1.0) for n in range(400))) == []


def test_a_norm_next_to_nothing_may_jump() -> None:
    watch = Alarms()
    falls = [{"grad_norm": 5.0}] * 20 + [{"grad_norm": 1e-3}] * 80 + [{"grad_norm": 0.04}] * 40
    assert raised(watch, ((figures, 1 - n / 140) for n, figures in enumerate(falls))) == []


def test_clipped_at_every_step() -> None:
    loud = {"grad_norm": 90.0}
    assert raised(Alarms(1.0), ((loud, 1.0) for _ in range(60))) == [(alarms.CLIPPED[0] - 1, "clipped always")]
    assert raised(Alarms(100.0), ((loud, 1.0) for _ in range(60))) == []
    assert raised(Alarms(None), ((loud, 1.0) for _ in range(60))) == []
    assert raised(Alarms(None, 1.0), (({"adversary_grad_norm": 9.0}, 1.0) for _ in range(60)))


def test_an_adversary_that_begins_is_no_spike() -> None:
    watch = Alarms()
    alone = {"grad_norm": 1.0, "pull_mel": 1.0}
    readings = [alone] * 30 + [sound(n) for n in range(30)]
    assert raised(watch, ((figures, 1.0) for figures in readings)) == []


def test_a_stage_is_no_spike() -> None:
    watch = Alarms()
    for n in range(30):
        assert not watch.read(n, {"grad_norm": 1.0}, 1.0)
    watch.forget()
    for n in range(30, 60):
        assert not watch.read(n, {"grad_norm": 50.0}, 1.0)


def test_what_is_missing_or_not_finite_says_nothing() -> None:
    watch = Alarms(1.0, 1.0)
    nothing = {"loss": None, "grad_norm": None, "score_real_S": [None, 1.0], "score_fake_S": [], "pull_mel": None}
    for n in range(50):
        assert watch.read(n, {}, 1.0) == [] == watch.read(n, nothing, 1.0)
        assert watch.read(n, {"grad_norm": math.nan, "adversary_grad_norm": math.inf}, 1.0) == []


@pytest.mark.parametrize("cut", [1, 7, 23, 24, 150])
def test_a_resume_raises_the_same_alarms(cut: int) -> None:
    """Through JSON, as the counters go into a checkpoint."""

    def figures(n: int) -> dict[str, Any]:
        fault = FAULTS["wins"][1] if 20 <= n < 40 else FAULTS["spike"][1] if n % 50 == 49 else {}
        return sound(n, **fault) | {"grad_norm": sound(n)["grad_norm"] * 8 ** (n / 200) * (30 if n % 50 == 49 else 1)}

    def go(first: int, last: int, watch: Alarms) -> list[tuple[int, Any]]:
        return [(n, alarm) for n in range(first, last) for alarm in watch.read(n, figures(n), 1 - n / 200)]

    whole = go(0, 200, Alarms(10.0, 10.0))
    assert len({alarm.kind for _, alarm in whole}) >= 3
    first = Alarms(10.0, 10.0)
    begun = go(0, cut, first)
    second = Alarms(10.0, 10.0)
    second.load(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert begun + go(cut, 200, second) == whole
    second.load({})
    assert second.state() == Alarms().state()


def test_what_is_remembered_stays_small() -> None:
    watch = Alarms(1.0, 1.0)
    for n in range(BLOCK * BLOCKS * 3):
        watch.read(n, sound(n), 1 - n / 1e4)
    assert all(len(blocks) <= BLOCKS for blocks in watch.state()["blocks"].values())
    assert len(json.dumps(watch.state())) < 20_000

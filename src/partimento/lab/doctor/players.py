"""Two players: whether the discriminator has won."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np

from partimento.lab.doctor import pictures
from partimento.lab.doctor.finding import Evidence, Examined, Finding
from partimento.lab.doctor.log import Series
from partimento.lab.doctor.patient import Patient
from partimento.runs.events import Event
from partimento.training.alarms import ACCURATE, APART, OPINIONS

LAST = 1 / 3  # of the readings since it began, in which it must hold
MOST = 0.5  # share of them
FEWEST = 6


def examine(patient: Patient) -> Examined:
    """By the accuracies and scores of the log, with the limits of the alarm ("adversary wins") of the training."""
    lines = [event for event in patient.log.train if _known(event)]
    if not lines:
        two = patient.raw.get("adversary", {}).get("start") is not None
        said = ("Two players: the adversary has not played yet, or its accuracy was not logged.",) if two else ()
        return Examined(missing=said)
    if len(lines) < FEWEST:
        return Examined(missing=(f"Two players: {len(lines)} readings since the adversary began.",))
    last = lines[-max(FEWEST, int(LAST * len(lines))) :]
    wins = [_wins(event) for event in last]
    share = float(np.mean(wins))
    alarms = [e for e in patient.events if e["kind"] == "alarm" and e.get("alarm") == "adversary wins"]
    right = _series(lines, lambda event: fmean((event["accuracy_real"], event["accuracy_fake"])))
    usual = float(np.median(right.y[-len(last) :]))
    if share < MOST and not alarms:
        return Examined(fine=(f"The discriminator is right about {100 * usual:.0f} %: it has not won.",))
    text = (
        f"In {100 * share:.0f} % of the last {len(last)} readings the discriminator told recordings and what was made "
    )
    text += f"apart with ease (right about {100 * usual:.0f} %, mean scores more than {APART:g} apart)."
    told = [
        Evidence(
            text, pictures.curve("players", "share that the discriminator is right about", right, at_least=(0.0, 1.0))
        )
    ]
    told += [Evidence(f"Its alarm at step {alarm['step']:,}: {alarm['text']}.") for alarm in alarms[:1]]
    told += _pull(lines)
    confidence = 0.85 if share >= 0.8 else 0.6 if share >= MOST else 0.35
    return Examined((Finding("discriminator_wins", confidence, tuple(told), f"step {last[0]['step']:,} on"),))


def _pull(lines: list[Event]) -> list[Evidence]:
    """How the adversary's pull at the generator stands against the strongest distance's."""
    shares = []
    for event in lines[-max(1, len(lines) // 4) :]:
        pulls = {name[5:]: pull for name, pull in event.items() if name.startswith("pull_") and pull}
        others = [pull for part, pull in pulls.items() if part not in OPINIONS]
        if others and event.get("pull_adversarial") is not None:
            shares.append(event["pull_adversarial"] / max(others))
    if not shares:
        return []
    return [Evidence(f"Its opinion pulls with {100 * float(np.median(shares)):.2g} % of the strongest distance.")]


def _known(event: Event) -> bool:
    accuracies = (event.get("accuracy_real"), event.get("accuracy_fake"))
    scores = (event.get("score_real_S"), event.get("score_fake_S"))
    return all(isinstance(one, int | float) for one in accuracies) and all(_numbers(one) for one in scores)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, int | float) for one in value)


def _wins(event: Event) -> bool:
    right = fmean((event["accuracy_real"], event["accuracy_fake"]))
    return right >= ACCURATE and fmean(event["score_real_S"]) - fmean(event["score_fake_S"]) > APART


def _series(lines: list[Event], of: Any) -> Series:
    return Series(np.array([float(e["step"]) for e in lines]), np.array([float(of(e)) for e in lines]))

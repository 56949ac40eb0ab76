"""Faults of the log that were planted in small real trainings: each is among the doctor's first two diagnoses."""

from __future__ import annotations

from pathlib import Path

import pytest
from ward import Planted
from ward.logs import PLANTED

from partimento.lab.doctor.doctor import doctor
from partimento.lab.doctor.finding import diseases


def marked(one: Planted) -> object:
    return pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.slow else [])


@pytest.mark.parametrize("one", [marked(one) for one in PLANTED])
def test_it_is_named(one: Planted, tmp_path: Path) -> None:
    made = one.make(tmp_path)
    found = doctor(*made) if isinstance(made, tuple) else doctor(made)
    told = [(each.disease, each.confidence) for each in found.findings]
    assert one.disease in [each.disease for each in found.diagnoses[:2]], told
    assert {name for name, _ in told[: [name for name, _ in told].index(one.disease)]} <= set(one.also), told


def test_each_disease_that_the_log_shows_first_is_planted() -> None:
    wanted = {name for name, one in diseases().items() if one.level[0] == "log"}
    assert wanted - {"guidance_without_null"} <= {one.disease for one in PLANTED}  # by demos: ward/samples.py


def test_names_are_unique_and_every_fault_is_told_in_a_sentence() -> None:
    assert len({one.name for one in PLANTED}) == len(PLANTED)
    assert all(one.how.endswith(".") and one.level == "log" for one in PLANTED)

"""Faults of weights that were planted in small real runs: each is among the doctor's first two diagnoses."""

from __future__ import annotations

from pathlib import Path

import pytest
from ward import Planted
from ward.weights import PLANTED

from partimento.lab.doctor.doctor import doctor


def marked(one: Planted) -> object:
    return pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.slow else [])


@pytest.mark.parametrize("one", [marked(one) for one in PLANTED])
def test_it_is_named(one: Planted, tmp_path: Path) -> None:
    made = one.make(tmp_path)
    found = doctor(*made) if isinstance(made, tuple) else doctor(made)
    told = [(each.disease, each.confidence) for each in found.findings]
    assert one.disease in [each.disease for each in found.diagnoses[:2]], told
    assert {name for name, _ in told[: [name for name, _ in told].index(one.disease)]} <= set(one.also), told

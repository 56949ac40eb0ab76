"""Trainings with nothing wrong in them: the doctor makes no diagnosis, whatever it remarks."""

from __future__ import annotations

from pathlib import Path

import pytest
from ward import Healthy
from ward.healthy import HEALTHY

from partimento.lab.doctor.doctor import doctor


def marked(one: Healthy) -> object:
    return pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.slow else [])


@pytest.mark.parametrize("one", [marked(one) for one in HEALTHY])
def test_nothing_is_called_a_disease(one: Healthy, tmp_path: Path) -> None:
    found = doctor(one.make(tmp_path))
    assert found.diagnoses == (), [(each.disease, each.confidence, each.evidence[0].text) for each in found.diagnoses]
    assert found.fine, "and much was looked at"

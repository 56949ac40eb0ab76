"""The slope of a curve against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import theilslopes

from partimento.lab.doctor.robust import slope


@pytest.mark.parametrize("seed", range(5))
def test_the_estimate_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.sort(rng.choice(10_000, 60, replace=False)).astype(float)
    y = rng.normal() * 1e-3 * x + rng.standard_t(2, size=60)
    found = slope(x, y)
    assert found.value == pytest.approx(theilslopes(y, x).slope, rel=1e-12)
    assert found.low <= found.value <= found.high

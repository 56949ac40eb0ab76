"""Channel layouts."""

from __future__ import annotations

import numpy as np
import pytest

from partimento.codecs.layout import arrange
from partimento.errors import PartimentoError


def test_mono_is_the_mean_and_says_what_it_was() -> None:
    stereo = np.array([[1.0, 0.5, -1.0], [0.0, 0.5, 1.0]], np.float32)
    arranged = arrange(stereo)
    assert arranged.wave_CN.tolist() == [[0.5, 0.5, 0.0]]
    assert (arranged.channels, arranged.layout) == (2, "mono")
    assert arranged.wave_CN.dtype == np.float32


def test_mono_stays_as_it_is() -> None:
    mono = np.array([[0.1, 0.2]], np.float32)
    assert np.array_equal(arrange(mono).wave_CN, mono)
    assert arrange(mono).channels == 1


def test_unknown_layout() -> None:
    with pytest.raises(PartimentoError, match="quadrophonic") as caught:
        arrange(np.zeros((4, 8), np.float32), "quadrophonic")
    assert caught.value.code == "CODEC003"

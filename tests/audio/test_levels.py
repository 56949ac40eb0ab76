"""Levels and silence against closed forms."""

import numpy as np
import pytest

from partimento.audio.levels import frame_levels, silent_share

RATE = 16000


def tone(level_db: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (np.sqrt(2) * 10 ** (level_db / 20) * np.sin(2 * np.pi * 400 * time)).astype(np.float32)


def test_the_level_of_a_frame_is_its_mean_square_over_all_channels() -> None:
    assert frame_levels(np.ones((1, RATE), np.float32), RATE) == pytest.approx(np.zeros(20))
    assert frame_levels(tone(-40), RATE) == pytest.approx(np.full(20, -40), abs=1e-3)
    one_of_two = np.stack([tone(-40), np.zeros(RATE, np.float32)])
    assert frame_levels(one_of_two, RATE) == pytest.approx(np.full(20, -43.01), abs=0.01)
    short = frame_levels(np.ones((1, 801), np.float32), RATE)  # the last frame has one sample
    assert short == pytest.approx([0, 0])


def test_silence_is_60_db_under_full_scale_whatever_is_loudest() -> None:
    assert silent_share(tone(-59), RATE) == 0 and silent_share(tone(-61), RATE) == 1
    assert silent_share(np.zeros((2, 100), np.float32), RATE) == 1
    assert silent_share(np.concatenate([tone(-10), tone(-70, 3.0)]), RATE) == 0.75
    assert silent_share(np.concatenate([tone(-61), tone(-90)]), RATE) == 1, "quiet noise is silence, too"


@pytest.mark.parametrize("wave", [np.zeros((1, 0)), np.array([[np.nan, 0.0]]), np.array([[np.inf]])])
def test_what_has_no_level_is_an_error(wave: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no levels"):
        silent_share(wave, RATE)

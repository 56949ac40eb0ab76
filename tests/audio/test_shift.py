"""Pitch shifting: length, time, pitch, band, pieces. The figures are what a listener or a restorer would notice."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from partimento.audio import shift
from partimento.audio.synth import band
from partimento.errors import PartimentoError


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def tone(hz: float, rate: int, seconds: float) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


def power(wave_N: np.ndarray, rate: int, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(wave_N * np.hanning(len(wave_N)))) ** 2
    hz = np.fft.rfftfreq(len(wave_N), 1 / rate)
    return float(spectrum[(hz >= low) & (hz < high)].sum())


def click_lags_ms(shifted_N: np.ndarray, places: list[int], rate: int) -> np.ndarray:
    """How far the centre of the energy around each click is from where the click was."""
    reach = rate // 12
    around = np.arange(-reach, reach)
    lags = []
    for place in places:
        energy = shifted_N[place - reach : place + reach].astype(np.float64) ** 2
        lags.append((around * energy).sum() / energy.sum() / rate * 1000)
    return np.abs(lags)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("samples", [1, 2, 441, 20000])
def test_the_length_is_that_of_the_input(channels: int, samples: int) -> None:
    wave_CN = noise(channels, samples)
    for made in (shift.shift(wave_CN, 44100, -5), shift.round_trip(wave_CN, 44100, 12)):
        assert made.shape == wave_CN.shape and made.dtype == np.float32 and np.isfinite(made).all()


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("semitones", [-12, -3.5, 7, 12])
def test_sounds_stay_at_their_time(rate: int, semitones: float) -> None:
    places = [round(seconds * rate) for seconds in (0.3, 0.71, 1.2)]
    wave_CN = np.zeros((1, round(1.5 * rate)), np.float32)
    wave_CN[0, places] = 0.9
    assert click_lags_ms(shift.shift(wave_CN, rate, semitones)[0], places, rate).max() < 0.5
    assert click_lags_ms(shift.round_trip(wave_CN, rate, semitones)[0], places, rate).max() < 1.0


def test_the_delay_that_is_made_up_for_is_a_block_of_the_engine() -> None:
    assert shift.latency(44100) == pytest.approx(0.12 * 44100, abs=2)
    assert shift.latency(96000) == pytest.approx(0.12 * 96000, abs=2)


def test_music_is_in_time_after_a_round_trip() -> None:
    """Energy of 10 ms in loops of the band, before and after: they agree best without any lag."""
    for index in range(3):
        loop = band(7, index)
        wave_1N = loop.wave_CN.mean(0, keepdims=True).astype(np.float32)[:, : 6 * loop.sample_rate]
        made_N = shift.round_trip(wave_1N, loop.sample_rate, 3)[0]
        width = loop.sample_rate // 100
        before, after = (np.convolve(w**2, np.ones(width) / width, "same") for w in (wave_1N[0], made_N))
        before, after = before - before.mean(), after - after.mean()
        lags = range(-loop.sample_rate // 50, loop.sample_rate // 50 + 1, loop.sample_rate // 4000)
        agreement = [float(np.dot(before, np.roll(after, -lag))) for lag in lags]
        assert abs(lags[int(np.argmax(agreement))]) / loop.sample_rate <= 1e-3


@pytest.mark.parametrize("semitones", [-12, -4, 3, 12, 24])
def test_the_pitch_moves_by_the_semitones(semitones: float) -> None:
    made_N = shift.shift(tone(440, 22050, 2), 22050, semitones)[0]
    middle = made_N[11025:33075]
    peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 18))) * 22050 / (1 << 18)
    assert 1200 * np.log2(peak / (440 * 2 ** (semitones / 12))) == pytest.approx(0, abs=6)  # cents


def test_an_octave_up_and_back_keeps_the_top_octave_only_in_full_band() -> None:
    rate = 44100
    wave_1N = noise(1, 2 * rate)
    whole, narrow = (shift.round_trip(wave_1N, rate, 12, full)[0] for full in (True, False))
    top = power(wave_1N[0], rate, 11500, 21000)
    assert power(whole, rate, 11500, 21000) / top > 0.5
    assert power(narrow, rate, 11500, 21000) / top < 1e-3
    assert power(narrow, rate, 500, 10500) / power(wave_1N[0], rate, 500, 10500) > 0.5
    assert shift.oversampling(rate, 12) == 2 and shift.oversampling(rate, -12) == 1
    assert shift.kept_hz(rate, 12) == rate / 4 and shift.kept_hz(rate, 12, 2) == rate / 2 == shift.kept_hz(rate, -12)


def test_what_is_above_hearing_is_not_worth_a_higher_rate() -> None:
    assert [shift.oversampling(rate, 12) for rate in (8000, 48000, 96000, 192000)] == [2, 2, 1, 1]
    assert shift.oversampling(44100, 24) == 4


def test_no_semitones_are_no_change_and_nothing_is_clipped() -> None:
    wave_CN = noise(2, 5000) * 30
    assert np.array_equal(shift.shift(wave_CN, 44100, 0), wave_CN)
    assert np.array_equal(shift.round_trip(wave_CN, 44100, 0), wave_CN)
    assert np.abs(shift.shift(wave_CN, 44100, 2)).max() > 2


def test_silence_stays_silence_and_nothing_of_one_signal_is_in_the_next() -> None:
    silent = np.zeros((2, 30000), np.float32)
    first = shift.shift(noise(2, 30000), 44100, 5)
    assert not shift.shift(silent, 44100, 5).any()
    assert np.array_equal(shift.shift(noise(2, 30000), 44100, 5), first)


def test_channels_of_a_pair_stay_in_phase_and_others_are_shifted_alike() -> None:
    mono_N = noise(1, 40000)[0]
    quieter = np.stack([mono_N, 0.5 * mono_N])
    made = shift.shift(quieter, 44100, -7)
    assert np.abs(made[1] - 0.5 * made[0]).max() < 1e-4
    four = shift.shift(np.concatenate([quieter, quieter[::-1]]), 44100, -7)
    assert np.array_equal(four[:2], made)
    assert np.array_equal(four[2:], shift.shift(quieter[::-1], 44100, -7))


def test_memory_that_is_not_in_order_is_read_in_order() -> None:
    wave_CN = noise(2, 20000)
    turned = np.asfortranarray(wave_CN)
    assert np.array_equal(shift.shift(turned, 44100, 3), shift.shift(wave_CN, 44100, 3))


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "_PIECE", 1 << 15)
    monkeypatch.setattr(shift, "_OVERLAP_SECONDS", 0.5)


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("cut", [1, 777, 50000])
def test_streamed_is_whole_bit_for_bit(cut: int) -> None:
    rate = 8000
    wave_CN = noise(2, 130_001 if cut > 1 else 45_000)
    blocks = [wave_CN[:, start : start + cut] for start in range(0, wave_CN.shape[1], cut)]
    made = np.concatenate(list(shift.shift_stream(blocks, rate, 4)), axis=1)
    assert np.array_equal(made, shift.shift(wave_CN, rate, 4))


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("samples", [1, (1 << 15) + 3999, (1 << 15) + 6400, 100_000, 3 << 15])
def test_no_length_falls_between_the_pieces(samples: int) -> None:
    assert shift.shift(noise(1, samples), 8000, -2).shape == (1, samples)


@pytest.mark.usefixtures("short_pieces")
def test_pieces_join_without_a_click_or_a_hole() -> None:
    """A steady chord over seven joins: power in 10 ms is as even as without any, and no sample jumps."""
    rate = 16000
    chord = sum(tone(hz, rate, 15) for hz in (220.0, 277.2, 329.6, 987.8)) / 4
    pieced = shift.shift(chord, rate, 3)[0][rate // 2 : -rate // 2]
    level = np.sqrt((pieced[: len(pieced) // 1600 * 1600].reshape(-1, 1600) ** 2).mean(1))
    assert level.min() > 0.6 * np.median(level) and level.max() < 1.5 * np.median(level)
    steepest = 0.1 * 2 * np.pi * sum((220.0, 277.2, 329.6, 987.8)) * 2 ** (3 / 12) / rate
    assert np.abs(np.diff(pieced)).max() < 1.5 * steepest


@pytest.mark.usefixtures("short_pieces")
def test_sounds_stay_at_their_time_across_pieces() -> None:
    rate = 8000
    places = list(range(4000, 156_000, 7001))
    wave_CN = np.zeros((1, 160_000), np.float32)
    wave_CN[0, places] = 0.9
    assert click_lags_ms(shift.round_trip(wave_CN, rate, -5)[0], places, rate).max() < 1.0


def test_a_stream_takes_memory_that_does_not_grow(short_pieces: None) -> None:
    """What it has taken in and not given back is at most two pieces with what is around them."""
    taken = given = most = 0

    def blocks() -> Any:
        nonlocal taken
        for index in range(200):
            taken += 4000
            yield noise(1, 4000, index)

    for block in shift.shift_stream(blocks(), 8000, 5):
        given += block.shape[1]
        most = max(most, taken - given)
    assert given == taken == 800_000 and most < 2 * (1 << 15)


def test_an_attack_at_the_first_sample_keeps_its_energy() -> None:
    """Before a recording there is silence, not half a window of nothing: its first 20 ms lose under 3 dB."""
    rate = 44100
    decay = np.exp(-np.arange(rate) / (0.1 * rate)).astype(np.float32)
    wave_1N = tone(330, rate, 1) * decay + 0.3 * noise(1, rate) * decay**4
    made = shift.round_trip(wave_1N, rate, 7)
    first = rate // 50
    ratio = float((made[:, :first] ** 2).sum() / (wave_1N[:, :first] ** 2).sum())
    assert 0.5 < ratio < 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused_where_it_is(bad: float) -> None:
    wave_CN = noise(2, 1000)
    wave_CN[1, 321] = bad
    with pytest.raises(PartimentoError) as err:
        list(shift.shift_stream([wave_CN[:, :300], wave_CN[:, 300:]], 44100, 3))
    assert err.value.code == "AUDIO040" and err.value.context["sample"] == 321


@pytest.mark.parametrize("semitones", [24.5, -30, float("nan"), float("inf")])
def test_shifts_beyond_two_octaves_are_refused(semitones: float) -> None:
    with pytest.raises(PartimentoError) as err:
        shift.shift(noise(1, 10), 44100, semitones)
    assert err.value.code == "AUDIO041"


def test_a_missing_engine_is_a_coded_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("python_stretch"):
            raise ImportError("No module named 'python_stretch'")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PartimentoError) as err:
        shift.shift(noise(1, 10), 44100, 1)
    assert err.value.code == "AUDIO042"


@pytest.mark.slow
def test_pieces_of_the_usual_size() -> None:
    """Three minutes at 44.1 kHz, in four pieces: streamed as whole, clicks in time to the end."""
    rate = 44100
    places = list(range(rate, 179 * rate, 7 * rate + 13))
    wave_CN = 1e-3 * noise(1, 180 * rate)
    wave_CN[0, places] = 0.9
    whole = shift.shift(wave_CN, rate, -4)
    streamed = np.concatenate(list(shift.shift_stream(np.array_split(wave_CN, 99, axis=1), rate, -4)), axis=1)
    assert np.array_equal(whole, streamed)
    assert click_lags_ms(whole[0], places, rate).max() < 0.5

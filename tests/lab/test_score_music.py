"""Tempo, key, beat, harmony, repetition and range of sounds whose truth is known because they were made."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from lab_fakes import tone

from partimento.audio.synth import band
from partimento.lab.labels.features import FRAMES_PER_SECOND, listen
from partimento.lab.measures import measure
from partimento.lab.scores import beats
from partimento.lab.scores.loudness_range import meter
from partimento.lab.scores.music import chroma_consistency, music

RATE = 44100


def clicks(times, seconds, rate=RATE):
    wave = np.zeros(int(seconds * rate), dtype=np.float32)
    burst = 0.5 * np.random.default_rng(0).standard_normal(900) * np.exp(-np.arange(900) / 150)
    for time in times:
        at = round(time * rate)
        wave[at : at + 900] += burst[: len(wave) - at]
    return wave[None]


def heard_well(indices):
    """(tempo within 2 %, key right) of loops that nothing was fitted on."""
    right = []
    for index in indices:
        loop = band(4001, index)
        found, _ = music(loop.wave_CN, loop.sample_rate)
        right.append((abs(found.tempo_bpm / loop.labels.tempo - 1) <= 0.02, found.key == loop.labels.key))
    return np.array(right).sum(0)


def test_tempo_within_two_percent_and_key_of_a_loop_of_the_band():
    assert heard_well([0]).tolist() == [1, 1]


@pytest.mark.slow
def test_tempo_within_two_percent_and_key_of_the_band():
    """An octave off is wrong."""
    tempo, key = heard_well(range(20))
    assert tempo >= 19 and key >= 18


@pytest.mark.parametrize("bpm", [80, 100, 125])
def test_beats_of_a_click_track_lie_on_the_clicks(bpm):
    truth = 0.5 + np.arange(int(9 * bpm / 60)) * 60 / bpm
    heard = listen(clicks(truth, 10), RATE)
    found = beats.track(heard.rise_TG.sum(1), bpm)
    # A frame is told by its first sample, and a rise is seen when the click has come half into the window.
    apart = found[:, None] - truth[None]
    nearest = apart[np.arange(len(found)), np.abs(apart).argmin(1)]
    assert len(found) >= len(truth) - 1 and np.ptp(nearest) < 1.5 / FRAMES_PER_SECOND
    assert np.abs(nearest).max() < 0.04
    assert beats.stability(found) > 0.985


@pytest.mark.parametrize("uneven", [0.03, 0.06])
def test_stability_is_one_less_the_deviation_of_the_intervals(uneven):
    rng = np.random.default_rng(1)
    intervals = 0.5 * (1 + uneven * rng.standard_normal(38))
    found = beats.stability(beats.track(listen(clicks(0.3 + np.cumsum(intervals), 20.5), RATE).rise_TG.sum(1), 120))
    assert found == pytest.approx(1 - intervals.std() / intervals.mean(), abs=0.012)


def test_no_beats_where_nothing_rises():
    assert len(beats.track(np.zeros(500), 120)) == 0
    assert beats.stability(np.arange(4.0)) is None


def test_a_loop_repeats_and_noise_does_not():
    loop = np.random.default_rng(5).standard_normal((1, round(2.35 * RATE))) * 0.1
    assert music(np.tile(loop, 3), RATE)[0].repetition == 1
    assert music(tone(5, 440)[None], RATE)[0].repetition == 1
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 6 * RATE))
    found, _ = music(noise, RATE)
    assert found.repetition == 0 and found.tempo_confidence < 0.5 and found.key_confidence < 0.5
    assert found.beat_stability is None


def test_half_of_a_sound_repeated():
    """A second of noise, three other seconds, and that second again: two windows in about eight."""
    rng = np.random.default_rng(2)
    part, other = rng.standard_normal(2 * RATE), rng.standard_normal(4 * RATE)
    found, _ = music(0.1 * np.concatenate([part, other, part])[None], RATE)
    # Of 7 s in which a window can begin, 2 x 1 s are inside of a part; at its edges the windows are still alike.
    assert 2 / 7 - 0.06 < found.repetition < 2 / 7 + 0.12


def test_chroma_consistency_of_one_chord_and_of_four():
    chords = np.eye(12)[[0, 3, 6, 9]]
    assert chroma_consistency(np.repeat(chords[:1], 40, 0)) == pytest.approx(1)
    assert chroma_consistency(np.repeat(chords, 10, 0)) == pytest.approx(0)
    half = np.repeat(np.stack([chords[0], chords[0], chords[1], chords[1]]), 10, 0)
    assert chroma_consistency(half) == pytest.approx(2 / 3)
    assert chroma_consistency(np.zeros((40, 12))) is None and chroma_consistency(chords[:3]) is None


@pytest.mark.parametrize(
    ("levels", "expected"),
    [([-20, -30], 10), ([-20, -15], 5), ([-40, -20], 20), ([-50, -35, -20, -35, -50], 15)],
)
def test_loudness_range_of_the_signals_of_the_standard(levels, expected):
    """EBU Tech 3342, table 1, tests 1 to 4: 20 s each of a 1 kHz sine in both channels; within 1 LU."""
    rate = 8000
    wave = np.concatenate([tone(20, 1000, level=10 ** (level / 20), rate=rate) for level in levels])
    assert meter(np.stack([wave, wave]), rate).range_lu == pytest.approx(expected, abs=0.2)


def test_bandwidth_of_two_tones_is_half_their_distance():
    found = measure(tone(2, 1000) + tone(2, 3000), RATE)
    assert found.centroid_hz == pytest.approx(2000, abs=20) and found.bandwidth_hz == pytest.approx(1000, abs=20)
    assert measure(tone(2, 1000), RATE).bandwidth_hz < 60


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("what", ["silence", "offset", "sample", "noise", "tone", "impulse"])
def test_every_figure_is_finite_or_none(what, channels, rate):
    N = int(3.5 * rate)
    waves = {
        "silence": np.zeros(N),
        "offset": np.full(N, 0.3),
        "sample": np.array([0.5]),
        "noise": 0.1 * np.random.default_rng(0).standard_normal(N),
        "tone": tone(3.5, 440, rate=rate),
        "impulse": np.eye(1, N, N // 2)[0],
    }
    wave_CN = np.repeat(waves[what][None].astype(np.float32), channels, 0)
    found = {**asdict(measure(wave_CN, rate)), **asdict(music(wave_CN, rate)[0])}
    wrong = {name: value for name, value in found.items() if isinstance(value, float) and not math.isfinite(value)}
    assert wrong == {}
    if what in ("silence", "offset", "sample"):
        assert found["tempo_bpm"] is None and found["key"] is None and found["repetition"] is None
    if what == "offset":
        assert found["centroid_hz"] is None and found["dc"] == pytest.approx(0.3)


def test_a_held_tone_has_no_tempo_and_its_pitch_is_heard_at_any_rate():
    for rate in (8000, 96000):
        found, labels = music(tone(4, 440, rate=rate)[None], rate)
        assert found.tempo_bpm is None and found.tempo_confidence is None and labels is not None
        assert found.key.startswith(("A", "D"))  # its own tonic, or that of which it is the fifth


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25])
def test_clipping_and_silence_are_exact(share):
    N = 20 * 2205  # 20 frames of 50 ms
    wave = np.full(N, 0.5, np.float32)
    wave[: int(share * N)] = 1.0
    assert measure(wave, RATE).clipped_share == int(share * N) / N
    quiet = tone(1, 441)
    quiet[: 2205 * round(20 * share)] = 0
    assert measure(quiet, RATE).silent_share == round(20 * share) / 20

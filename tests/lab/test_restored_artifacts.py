"""Each artifact is found where it was planted, told apart from the others, and not found in music that has none."""

import math

import numpy as np
import pytest
from scipy import signal

from partimento.audio.files import resample
from partimento.audio.shift import round_trip
from partimento.audio.synth import band
from partimento.lab.restored.artifacts import ARTIFACTS, BY_NAME, faults

RATE = 44100
STRIDES = (8, 64, 256, 512)
LOOPS = 6


@pytest.fixture(scope="module")
def loops():
    found = []
    for index in range(LOOPS):
        loop = band(77, index, seconds=2)
        found.append(resample(loop.wave_CN, loop.sample_rate, RATE)[0].astype(np.float64))
    return found


def noise(N, level, seed=0):
    return level * np.random.default_rng(seed).standard_normal(N)


def damages(wave_N):
    """What a restorer may do to music without any of the artifacts."""
    low = signal.sosfilt(signal.butter(4, 6000, fs=RATE, output="sos"), wave_N)
    return {
        "nothing": wave_N,
        "noise at -20 dB": wave_N + noise(len(wave_N), 0.1 * wave_N.std()),
        "low-pass": low,
        "a gain": 0.7 * wave_N,
        "10 bits": np.round(wave_N * 512) / 512,
        "a delay": np.roll(wave_N, 7),
        "an octave up and back": round_trip(wave_N[None].astype(np.float32), RATE, 12)[0],
    }


def test_music_without_artifacts_raises_hardly_an_alarm(loops):
    alarms, asked = [], 0
    for number, wave_N in enumerate(loops):
        for name, made_N in damages(wave_N).items():
            found = faults(made_N, wave_N, RATE, STRIDES)
            asked += sum(value is not None for value in found.figures.values())
            alarms += [(number, name, fault, round(found.figures[fault], 1)) for fault in found.found]
    alarms = [one for one in alarms if one[2] != "clipping" or one[1] != "an octave up and back"]  # those do clip
    assert asked > 250
    assert len(alarms) <= 0.01 * asked, alarms


def planted(wave_N):
    """Artifact -> a wave that has it, and hardly anything else."""
    N, sd = len(wave_N), wave_N.std()
    n = np.arange(N)
    made = {name: wave_N + noise(N, 0.03 * sd, seed) for seed, name in enumerate(BY_NAME)}
    made["onset_pop"][:300] += noise(300, 1.0 * max(sd, wave_N[:882].std()), 20)
    made["end_pop"][-300:] += noise(300, 1.0 * max(sd, wave_N[-882:].std()), 21)
    made["edge_start"][:2000] += noise(2000, 0.5 * max(sd, wave_N[:2205].std()), 22)
    made["edge_end"][-2000:] += noise(2000, 0.5 * max(sd, wave_N[-2205:].std()), 23)
    made["line"] += 0.02 * sd * np.sin(2 * np.pi * 27 / 64 * n)  # 18.6 kHz, a multiple of rate / 64
    made["comb"] += 0.1 * sd * noise(N, 1.0, 24) * (1 + np.cos(2 * np.pi * n / 64)) * (n % 64 < 16)
    made["offset"] += 0.05 * sd
    made["clipping"] = np.clip(3 / np.abs(wave_N).max() * made["clipping"], -1, 1)
    return made


@pytest.mark.parametrize("name", [one.name for one in ARTIFACTS if one.name != "pre_echo"])
def test_what_was_planted_is_found(loops, name):
    hits = [name in faults(planted(wave_N)[name], wave_N, RATE, STRIDES).found for wave_N in loops]
    assert sum(hits) >= LOOPS - 1, hits


def test_a_line_and_a_comb_are_told_where_they_are(loops):
    made = planted(loops[0])
    line = faults(made["line"], loops[0], RATE, STRIDES)
    assert line.line_hertz == pytest.approx(27 / 64 * RATE, abs=RATE / 8192)
    assert line.line_strides == (64, 256, 512), "a multiple of rate / 64 is one of rate / 512, too"
    comb = faults(made["comb"], loops[0], RATE, STRIDES)
    assert comb.comb_stride in (8, 64, 256)
    elsewhere = loops[0] + 0.02 * loops[0].std() * np.sin(2 * np.pi * 15432.1 / RATE * np.arange(len(loops[0])))
    assert faults(elsewhere, loops[0], RATE, (8, 64)).line_strides == ()


def test_a_tone_of_the_music_is_no_line_and_one_that_is_new_is():
    n = np.arange(2 * RATE)
    drone_N = 0.2 * np.sin(2 * np.pi * 440 / RATE * n) + noise(len(n), 1e-3)
    assert faults(drone_N + noise(len(n), 1e-3, 1), drone_N, RATE).found == ()
    found = faults(drone_N + 0.003 * np.sin(2 * np.pi * 5000 / RATE * n), drone_N, RATE)
    assert "line" in found.found and found.line_hertz == pytest.approx(5000, abs=6)


def test_an_attack_on_the_first_sample_is_no_pop():
    n = np.arange(2 * RATE)
    drum_N = np.exp(-n / 3000) * noise(len(n), 0.5)
    made_N = 0.8 * drum_N + noise(len(n), 1e-4, 1)  # the error is largest where the drum is
    assert faults(made_N, drum_N, RATE).found == ()
    click_N = made_N.copy()
    click_N[:100] += 3.0
    assert "onset_pop" in faults(click_N, drum_N, RATE).found


def test_noise_before_an_attack_is_a_pre_echo():
    n = np.arange(2 * RATE)
    attacks_N = sum((n >= at) * np.exp(-np.maximum(n - at, 0) / 2000) for at in range(RATE // 2, 2 * RATE, RATE // 2))
    target_N = attacks_N * noise(len(n), 0.3)
    smeared_N = np.copy(target_N)
    for at in range(RATE // 2, 2 * RATE, RATE // 2):
        smeared_N[at - 900 : at] += noise(900, 0.03)
    found = faults(smeared_N, target_N, RATE)
    assert "pre_echo" in found.found and found.figures["pre_echo"] > 20
    assert faults(target_N + noise(len(n), 1e-5), target_N, RATE).found == ()


def test_the_offset_is_that_which_was_added():
    target_N = noise(RATE, 0.1)
    found = faults(target_N + 0.004, target_N, RATE)
    assert found.figures["offset"] == pytest.approx(20 * math.log10(0.04), abs=0.1) and found.found == ("offset",)


def test_every_artifact_has_a_figure_a_threshold_and_a_reason():
    found = faults(noise(RATE, 0.1), noise(RATE, 0.1, 1), RATE, STRIDES)
    assert list(found.figures) == list(BY_NAME) and all(one.why and one.title for one in ARTIFACTS)


def test_silence_and_short_sounds_have_no_figures_of_what_they_cannot_show():
    silent = faults(noise(RATE, 0.1), np.zeros(RATE), RATE, STRIDES)
    assert silent.found == () and set(silent.figures.values()) == {None}
    short = faults(noise(300, 0.1), noise(300, 0.1, 1), RATE, STRIDES)
    assert {name for name, value in short.figures.items() if value is not None} == {"clipping"}
    with pytest.raises(ValueError):
        faults(np.zeros(3), np.zeros(4), RATE)
    with pytest.raises(ValueError):
        faults(np.zeros((1, 3)), np.zeros((1, 3)), RATE)

"""Estimators of tempo, key and style: on sounds with labels known by construction, and on loops never fitted on."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from lab_fakes import tone

from partimento.audio import files
from partimento.audio.synth import band
from partimento.cli.main import cli
from partimento.lab.labels import estimate, key, shipped, tempo
from partimento.lab.labels.features import GROUP_HZ, RATE, Unlabelled, listen
from partimento.lab.score import score

HELD_OUT = 3001  # neither a seed that the judge was fitted on nor one that it was measured on


@pytest.fixture(scope="module")
def loops():
    return [band(HELD_OUT, index) for index in range(16)]


def heard_from(wave_CN, start, seconds):
    return np.roll(wave_CN, -start, axis=1)[:, : round(seconds * 44100)]


def test_held_out_loops_are_known(loops):
    found = [estimate(loop.wave_CN, loop.sample_rate) for loop in loops]
    truth = [loop.labels for loop in loops]
    assert sum(abs(one.tempo / label.tempo - 1) <= 0.04 for one, label in zip(found, truth, strict=True)) >= 15
    assert sum(one.key == label.key for one, label in zip(found, truth, strict=True)) >= 14
    assert sum(one.style == label.style for one, label in zip(found, truth, strict=True)) >= 15


def test_level_rate_and_channels_do_not_matter(loops):
    loop = loops[0]
    plain = estimate(loop.wave_CN, loop.sample_rate)
    quiet = np.repeat(0.01 * files.resample(loop.wave_CN, 44100, 48000), 2, axis=0)
    other = estimate(quiet, 48000)
    assert (other.key, other.style) == (plain.key, plain.style)
    assert other.tempo == pytest.approx(plain.tempo, rel=0.01)


def test_equal_sounds_have_equal_labels_and_an_estimate_is_json(loops):
    one, two = (estimate(loops[1].wave_CN, 44100) for _ in range(2))
    assert one == two
    assert json.loads(json.dumps(one.to_json())) == one.to_json()


@pytest.mark.parametrize("bpm", [72, 96, 120, 150])
def test_the_beat_of_a_drum_machine_is_found(bpm):
    """Kick on the beats, snare on every second one, hats between. Which level is the beat is a matter of style, and the
    template knows the band's: it may be the double or the half."""
    rng, seconds = np.random.default_rng(bpm), 8
    wave_N = np.zeros(seconds * 44100)
    for eighth in range(int(seconds * bpm / 30)):
        at = round(eighth * 30 / bpm * 44100)
        t = np.arange(min(6000, len(wave_N) - at)) / 44100
        sound = 0.2 * rng.standard_normal(len(t)) * np.exp(-t / 0.01)
        if eighth % 2 == 0:
            sound += np.sin(2 * np.pi * 60 * t) * np.exp(-t / 0.05)
        if eighth % 4 == 2:
            sound += 0.6 * rng.standard_normal(len(t)) * np.exp(-t / 0.04)
        wave_N[at : at + len(t)] += sound
    octaves = np.log2(estimate(wave_N[None], 44100).tempo / bpm)
    assert abs(octaves) < 1.1 and abs(octaves - round(octaves)) < 0.03


@pytest.mark.parametrize("index", range(4))
def test_the_key_of_transposed_pitches_is_transposed(loops, index):
    """The band plays in twelve of the keys; the profiles turn to all."""
    loop = loops[index]
    heard = listen(loop.wave_CN, 44100)
    names = []
    for shift in range(12):
        moved = dataclasses.replace(heard, chroma_RP=np.roll(heard.chroma_RP, shift, axis=1))
        names.append(key.pick(key.features(moved), shipped().key_F))
    places = [key.KEYS.index(name) for name in names]
    assert [place // 12 for place in places] == [places[0] // 12] * 12
    assert [(place - places[0]) % 12 for place in places] == list(range(12))


def test_tuning_is_taken_off(loops):
    """The same loop a third of a semitone sharp has the same pitch classes."""
    loop = loops[2]
    sharp_CN = files.resample(loop.wave_CN, 44100, round(44100 * 2 ** (-1 / 36)))
    plain, moved = listen(loop.wave_CN, 44100).chroma_RP, listen(sharp_CN, 44100).chroma_RP
    assert np.abs(plain - moved).sum(1).max() < 0.35
    assert estimate(sharp_CN, 44100).key == estimate(loop.wave_CN, 44100).key


def test_pitch_classes_and_rises_are_where_they_were_put():
    heard = listen((tone(4, 110) + tone(4, 329.63) + tone(4, 1046.5))[None], 44100)
    assert heard.chroma_RP.argmax(1).tolist() == [9, 4, 0]
    assert heard.chroma_RP.max(1).min() > 0.95
    click_N = 1e-3 * np.random.default_rng(0).standard_normal(4 * RATE)
    click_N[2 * RATE :] += tone(2, 400, rate=RATE)
    rise_TG = listen(click_N[None], RATE).rise_TG
    assert len(GROUP_HZ) - 1 == rise_TG.shape[1]
    assert np.abs(rise_TG.sum(1).argmax() * 256 / RATE - 2) < 0.05


def test_autocorrelation_of_a_pulse_train_and_of_nothing():
    pulses_T = np.zeros(700)
    pulses_T[::43] = 1.0
    found = tempo.autocorrelation(pulses_T)
    assert found[0] == pytest.approx(1) and found[43] > 0.95 and abs(found[20]) < 0.1
    assert not tempo.autocorrelation(np.full(50, 3.0)).any()


@pytest.mark.parametrize(
    "wave_CN",
    [tone(2.9, 440)[None], np.zeros((1, 5 * 44100)), np.full((1, 5 * 44100), np.nan), np.zeros((2, 0))],
    ids=["short", "silent", "nan", "empty"],
)
def test_what_has_no_labels_gets_none(wave_CN):
    with pytest.raises(Unlabelled):
        estimate(wave_CN, 44100)


def test_of_a_long_sound_the_middle_minute_counts(loops):
    loop = loops[3]
    repeats = int(np.ceil(62 * 44100 / loop.wave_CN.shape[1]))
    music_CN = np.tile(loop.wave_CN, repeats)
    before_CN = np.zeros((1, 300 * 44100), np.float32)
    found = estimate(np.concatenate([before_CN, music_CN, before_CN], axis=1), 44100)
    assert found.style == loop.labels.style and found.key == loop.labels.key


def test_the_judge_of_the_package_fits_the_features(loops):
    judge = shipped()
    assert len(judge.styles) == 8 and judge.style_FC.shape == (len(judge.centre_F), 8)
    heard = listen(loops[0].wave_CN, 44100)
    assert tempo.features(heard).shape == (len(tempo.BPM_C), len(judge.tempo_F))
    assert key.features(heard).shape == (24, len(judge.key_F))


def test_score_estimates_labels_on_demand(tmp_path, loops):
    files.write(tmp_path / "loop.flac", loops[0].wave_CN, 44100)
    files.write(tmp_path / "short.flac", tone(1, 440)[None], 44100)
    assert [one.labels for one in score([tmp_path])] == [None, None]
    known, unknown = score([tmp_path], labels=True)
    assert known.labels is not None and known.labels.style == loops[0].labels.style
    assert unknown.labels is None and unknown.error is None and unknown.measures is not None
    out = CliRunner().invoke(cli, ["score", str(tmp_path), "--labels", "--quiet"])
    assert out.exit_code == 0, out.output
    assert loops[0].labels.style in out.output and loops[0].labels.key in out.output
    told = json.loads(CliRunner().invoke(cli, ["score", str(tmp_path), "--labels", "--quiet", "--json"]).output)
    assert [one["labels"] and one["labels"]["key"] for one in told["scores"]] == [loops[0].labels.key, None]

"""The band: labels held against estimators that know nothing of how the loops were made."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from partimento.audio import files, studio, synth
from partimento.audio.captions import caption
from partimento.audio.drums import KITS
from partimento.audio.instruments import INSTRUMENTS
from partimento.audio.score import Clock, bass_part, chord, chord_part, compose, drum_part, lead_part
from partimento.audio.styles import KEYS, STYLES, Style

RATE = 44100
PITCHES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
# Krumhansl and Kessler (1982): how well each pitch class fits a major and a minor key.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


@pytest.fixture(scope="module")
def loops() -> list[synth.Loop]:
    return [synth.band(5, index) for index in range(16)]


def spectrogram(wave_N: np.ndarray, size: int, hop: int) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave_N, size // 2, mode="wrap"), size)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size)))


def tempo_near(wave_N: np.ndarray, low: float, high: float) -> float:
    """The tempo whose beat, and 2 and 4 of them, the onset strength repeats best."""
    hop = 256
    flux = np.maximum(np.diff(np.log1p(10 * spectrogram(wave_N, 1024, hop)), axis=0), 0).sum(1)
    flux -= np.convolve(np.pad(flux, 20, mode="wrap"), np.ones(41) / 41, "valid")
    power = np.abs(np.fft.rfft(flux)) ** 2
    repeats = np.fft.irfft(power, len(flux))  # a loop is a ring
    tempi = np.arange(low, high, 0.25)
    lags = 60 / tempi[:, None] * RATE / hop * np.array([1, 2, 4])
    return float(tempi[np.interp(lags, np.arange(len(repeats)), repeats).sum(1).argmax()])


def key_of(wave_N: np.ndarray) -> str:
    size = 8192
    strength = np.sqrt(spectrogram(wave_N, size, 2048)).mean(0)
    hz = np.fft.rfftfreq(size, 1 / RATE)
    used = (hz > 60) & (hz < 1600)
    strength = np.maximum(strength - np.convolve(strength, np.ones(31) / 31, "same"), 0)[used]
    classes = np.round(12 * np.log2(hz[used] / 261.6256)).astype(int) % 12
    chroma = np.bincount(classes, strength, 12)
    fits = {
        f"{PITCHES[tonic]} {mode}": np.corrcoef(np.roll(profile, tonic), chroma)[0, 1]
        for mode, profile in PROFILES.items()
        for tonic in range(12)
    }
    return max(fits, key=lambda key: fits[key])


def test_tempo_is_the_label(loops: list[synth.Loop]) -> None:
    drummed = [loop for loop in loops if "drums" in loop.labels.instruments]
    assert len(drummed) >= 10
    # Half an octave either way: which of 64 and 128 "is" the beat no autocorrelation can tell.
    found = [
        (loop.labels.tempo, tempo_near(loop.wave_CN[0], loop.labels.tempo * 0.75, loop.labels.tempo * 1.4))
        for loop in drummed
    ]
    wrong = [(true, heard) for true, heard in found if abs(heard / true - 1) > 0.02]
    assert len(wrong) <= len(found) // 10, wrong


def relation(true: str, heard: str) -> str:
    """As in MIREX key detection: an estimator of this kind takes a key for its fifth, relative or parallel at times."""
    (tonic, mode), (other, other_mode) = true.split(), heard.split()
    up = (PITCHES.index(other) - PITCHES.index(tonic)) % 12
    if mode == other_mode:
        return {0: "same", 5: "near", 7: "near"}.get(up, "far")
    return "near" if up in (0, 9 if mode == "major" else 3) else "far"


def test_key_is_the_label(loops: list[synth.Loop]) -> None:
    found = [(loop.labels.key, key_of(loop.wave_CN[0])) for loop in loops]
    relations = [relation(*pair) for pair in found]
    assert relations.count("same") >= 0.6 * len(found), found  # by chance 4 %
    assert relations.count("far") <= 0.1 * len(found), found  # by chance 5 of 6


@pytest.mark.parametrize("name", sorted(INSTRUMENTS))
def test_every_instrument_is_in_tune_and_differs(name: str) -> None:
    wave = INSTRUMENTS[name](220.0, 1.0, 0.8, np.random.default_rng(0))
    assert np.isfinite(wave).all() and len(wave) > RATE / 2
    middle = wave[RATE // 10 : RATE * 9 // 10] * np.hanning(RATE * 8 // 10)
    spectrum = np.abs(np.fft.rfft(middle, 1 << 20))
    hz = np.fft.rfftfreq(1 << 20, 1 / RATE)
    near = (hz > 180) & (hz < 270)
    strongest = hz[near][spectrum[near].argmax()]
    assert abs(1200 * np.log2(strongest / 220)) < (20 if name == "reese bass" else 12)  # detuned on purpose
    # Nothing folds: no instrument has a partial above 16 kHz.
    assert np.sum(spectrum[hz > 18000] ** 2) < 1e-4 * np.sum(spectrum**2)


def test_chords_in_keys() -> None:
    def names(numeral: str, tonic: str, mode: str) -> list[str]:
        return [PITCHES[tone] for tone in chord(numeral, tonic, mode).tones]

    assert names("I", "C", "major") == ["C", "E", "G"]
    assert names("ii7", "C", "major") == ["D", "F", "A", "C"]
    assert names("V7", "A", "minor") == ["E", "Ab", "B", "D"]
    assert names("VI", "A", "minor") == ["F", "A", "C"]
    assert names("ii0", "A", "minor") == ["B", "D", "F", "A"]
    assert names("IM7", "Bb", "major") == ["Bb", "D", "F", "A"]
    with pytest.raises(ValueError, match="not a chord"):
        chord("X9", "C", "major")


def test_swing_moves_the_off_beats_only() -> None:
    by_name = {style.name: style for style in STYLES}
    straight, swung = Clock(by_name["rock"], 120), Clock(by_name["swing"], 120)
    assert [straight(step) for step in (0, 2, 4, 6)] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert [swung(step) for step in (0, 2, 4, 6)] == pytest.approx([0, 0.3275, 0.5, 0.8275])
    assert all(swung(step / 8) < swung((step + 1) / 8) for step in range(200))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
@pytest.mark.parametrize("bars", [1, 2, 4, 8])
def test_every_part_of_every_style_can_be_played(style: Style, bars: int) -> None:
    """All patterns are whole bars, all notes lie in the loop and in range, whatever the choice."""
    steps = 4 * style.beats
    patterns = [bar for groove in style.grooves for pattern in groove.values() for bar in pattern]
    patterns += [bar for line in style.bass_lines for bar in line] + [bar for _, line in style.comping for bar in line]
    patterns += [bar for motif in style.lead_rhythms for bar in motif]
    assert {len(bar) for bar in patterns} == {steps}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        mode = sorted(style.progressions)[seed % len(style.progressions)]
        song = compose(style, KEYS[mode][seed % 6], mode, rng)
        parts = [bass_part(song, bars, rng), chord_part(song, bars), lead_part(song, bars, rng)]
        for part, (low, high) in zip(parts, [(28, 60), (40, 78), (58, 88)], strict=True):
            assert part
            assert all(0 <= note.step < bars * steps and note.length > 0 for note in part)
            assert all(low <= note.pitch <= high for note in part), [note.pitch for note in part]
        hits = drum_part(song, bars, fill=True, rng=rng) if style.kit else []
        assert all(hit.drum in KITS[style.kit or ""] and 0 <= hit.step < bars * steps for hit in hits)


def test_loops_are_whole_bars_at_a_sensible_level(loops: list[synth.Loop]) -> None:
    for loop in loops:
        labels = loop.labels
        beats = labels.bars * int(labels.metre[0])
        assert loop.wave_CN.shape == (1, round(beats * 60 / labels.tempo * RATE))
        assert loop.wave_CN.dtype == np.float32
        assert np.abs(loop.wave_CN).max() <= 0.98
        assert -20 < 10 * np.log10(np.mean(loop.wave_CN**2)) < -16
        assert 5.5 < loop.wave_CN.shape[1] / RATE < 11.5


def test_a_loop_has_no_seam(loops: list[synth.Loop]) -> None:
    """From the last sample to the first is a step like any other: what rings past the end comes in at the start."""
    held = [loop for loop in loops if "drums" not in loop.tags]
    assert len(held) >= 2
    for loop in held:
        steps = np.abs(np.diff(loop.wave_CN[0]))
        assert abs(loop.wave_CN[0, 0] - loop.wave_CN[0, -1]) <= 2 * np.quantile(steps, 0.999)
        start, end = (np.sqrt(np.mean(part**2)) for part in (loop.wave_CN[0, :2000], loop.wave_CN[0, -2000:]))
        assert 0.2 < start / end < 5  # nothing fades in or out


def test_stereo_has_width_and_the_same_music() -> None:
    left, right = synth.band(5, 3, stereo=True).wave_CN
    assert 0.02 < np.std(left - right) / np.std(left + right) < 1
    mono = synth.band(5, 3).wave_CN[0]
    middle = (left + right) / 2
    assert np.corrcoef(middle, mono)[0, 1] > 0.9


def test_labels_and_tags(loops: list[synth.Loop]) -> None:
    assert {loop.labels.style for loop in loops} == {style.name for style in STYLES}
    for loop in loops:
        style = next(style for style in STYLES if style.name == loop.labels.style)
        tonic, mode = loop.labels.key.split()
        assert loop.labels.tempo in style.tempi and mode in style.progressions and tonic in KEYS[mode]
        assert loop.tags[:3] == [style.name, f"{loop.labels.tempo} bpm", loop.labels.key]
        assert len(set(loop.tags)) == len(loop.tags)
        assert len(loop.labels.instruments) >= (3 if style.kit else 2)
    vocabulary = {tag for index in range(400) for tag in tags_only(9, index)}
    assert len(vocabulary) < 70


def tags_only(seed: int, index: int) -> list[str]:
    song = synth._song(seed, index // synth.LOOPS_PER_SONG)
    return [song.style.name, f"{song.tempo} bpm", song.key, song.bass, song.comping, song.lead]


def test_two_loops_share_a_song_and_differ(loops: list[synth.Loop]) -> None:
    for first, second in zip(loops[::2], loops[1::2], strict=True):
        assert first.source == second.source
        assert first.labels.key == second.labels.key and first.labels.tempo == second.labels.tempo
        assert not np.array_equal(first.wave_CN, second.wave_CN)
    assert len({loop.source for loop in loops}) == len(loops) // 2
    assert len({hashlib.sha256(loop.wave_CN.tobytes()).hexdigest() for loop in loops}) == len(loops)


def test_a_resting_player_changes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts before the mix: what the bass plays does not hang on who else plays."""
    song, key = next(song for song in map(synth._song, [5] * 8, range(8)) if song.style.name == "rock"), ("loop", 5, 0)
    assert song.style.ducking == 0
    heard: dict[int, list[np.ndarray]] = {}
    monkeypatch.setattr(studio, "_loudness", lambda part_CN: heard[len(heard)].append(part_CN.copy()) or 1.0)
    for players in (["drums", "bass", "chords", "lead"], ["bass", "lead"]):
        heard[len(heard) + 1] = []
        studio.record(song, 1, players, channels=1, key=key)
    for number, other in ((1, 0), (3, 1)):
        np.testing.assert_array_equal(heard[1][number], heard[2][other])


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    """In another process, too."""
    synth.render_band(tmp_path / "a", 3, 11, stereo=True, seconds=2)
    script = f"""
from pathlib import Path
from partimento.audio import synth
synth.render_band(Path({str(tmp_path / "b")!r}), 3, 11, stereo=True, seconds=2)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir()) and len(names) == 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    other = synth.band(12, 0, seconds=2)
    assert not np.array_equal(other.wave_CN, synth.band(11, 0, seconds=2).wave_CN)


def test_rendered_folder(tmp_path: Path) -> None:
    paths = synth.render_band(tmp_path, 4, 2, seconds=2)
    rows = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [path.name for path in paths]
    for index, (row, path) in enumerate(zip(rows, paths, strict=True)):
        loop = synth.band(2, index, seconds=2)
        assert row["tags"] == loop.tags and row["source"] == loop.source and row["licence"] == "CC0-1.0"
        assert row["labels"]["tempo"] == loop.labels.tempo and row["labels"]["key"] == loop.labels.key
        audio = files.read(path)
        assert audio.sample_rate == RATE
        np.testing.assert_allclose(audio.wave_CN, loop.wave_CN, atol=2e-5)
    assert files.discover(tmp_path) == paths


def test_captions_say_what_the_labels_say(tmp_path: Path) -> None:
    said: set[str] = set()
    for index in range(40):
        labels = synth.labels_of(3, index)
        for number in range(5):
            words = caption(labels, number, index)
            assert labels.style in words.lower() and labels.key in words and f"{labels.tempo} b" in words, words
            assert all(name in words.lower() for name in labels.instruments), words
            others = {style.name for style in STYLES} - {labels.style}
            assert not any(f" {name} " in words.lower() for name in others), words
            assert "{" not in words and words[0].isupper() and words.endswith(".") and "  " not in words
            said.add(words)
    assert len(said) > 190  # of 200: the same facts in other words
    assert caption(labels, 1, 2) == caption(labels, 1, 2)
    synth.render_band(tmp_path, 2, 2, seconds=2, captions=True)
    rows = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == [
        caption(synth.labels_of(2, index, seconds=2), 2, index) for index in (0, 1)
    ]


def test_bad_arguments() -> None:
    for seconds, index in ((0, 0), (-1, 0), (1e9, 0), (8, -1)):
        with pytest.raises(ValueError, match="seconds"):
            synth.band(0, index, seconds=seconds)

"""Crops of recordings: the split by hashed name, shares of kinds, styles that are never heard, drawing by key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from partimento.audio import synth
from partimento.audio.files import discover
from partimento.errors import PartimentoError
from partimento.sound_settings import SoundData
from partimento.training.tasks import crops
from partimento.training.tasks.crops import Crops, Recording, chances, gather, is_held_out

NAMES = [f"take{number}.wav" for number in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four short recordings in four folders, some stereo, one at another rate."""
    root = tmp_path_factory.mktemp("crops") / "takes"
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        wave = 0.1 * rng.standard_normal((1000 + 100 * number, 1 + (number % 3 == 0)))
        (root / f"day{number % 4}").mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"day{number % 4}" / name, wave, 22050 if number == 1 else 44100)
    return root


def only(kind: str, samples: int, value: float = 1.0) -> Recording:
    return Recording(f"{kind} {samples}", kind, np.full(samples, value, np.float32), "", f"{kind} {samples}")


def test_the_split_goes_by_name_alone(folder: Path) -> None:
    sound = gather(SoundData(folders=[str(folder)], band_loops=0), 44100)
    assert {r.source for r in sound.held_out} == {name for name in NAMES if is_held_out(name)}
    assert len(sound.train) + len(sound.held_out) == len(NAMES)
    assert {r.kind for r in sound.train} == {"takes"}
    share = np.mean([is_held_out(f"name {number}") for number in range(2000)])
    assert 0.12 < share < 0.18
    resampled = next(r for side in (sound.train, sound.held_out) for r in side if r.source == "take1.wav")
    assert abs(len(resampled.wave_N) - 2 * 1100) <= 2
    assert len(resampled.sha256) == 64


def test_the_split_of_today_is_that_of_the_shipped_codec() -> None:
    """Figures of before and after are of the same files."""
    held = [name for name in (f"{number}.flac" for number in range(40)) if is_held_out(name)]
    assert held == ["3.flac", "10.flac", "19.flac", "21.flac", "24.flac", "28.flac", "39.flac"]


def test_folders_are_kept_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "is_held_out", lambda group: group == "takes/day2")
    sound = gather(SoundData(folders=[str(folder)], band_loops=0, group="folder"), 44100)
    assert {r.source for r in sound.held_out} == {name for n, name in enumerate(NAMES) if n % 4 == 2}
    assert {r.group for r in sound.train} == {"takes/day0", "takes/day1", "takes/day3"}


def test_a_folder_may_be_named_from_inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "is_held_out", lambda group: "day2" in group)
    outside = gather(SoundData(folders=[str(folder)], band_loops=0, group="folder"), 44100)
    monkeypatch.chdir(folder)
    inside = gather(SoundData(folders=["."], band_loops=0, group="folder"), 44100)
    assert inside.identity() == outside.identity()
    assert inside.train[0].kind == "takes"


def short_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops whose songs and styles are the band's own, and whose samples are a tick each."""
    loop = synth.band(1, 0, seconds=1.0)
    styles = [style.name for style in crops.STYLES]

    def play(seed: int, index: int) -> synth.Loop:
        song = index // 2
        labels = replace(loop.labels, style=styles[song % len(styles)])
        wave = np.full((1, 441), 0.01 * song, np.float32)
        return replace(loop, wave_CN=wave, labels=labels, source=f"band-{seed}-song-{song:05d}")

    monkeypatch.setattr(crops, "band", play)


def test_songs_of_the_band_are_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    short_band(monkeypatch)
    sound = gather(SoundData(folders=[], band_loops=60), 44100)
    songs = [{r.source for r in side} for side in (sound.train, sound.held_out)]
    assert songs[0] and songs[1] and not songs[0] & songs[1]
    assert {r.kind for side in (sound.train, sound.held_out) for r in side} == {"band"}


def test_unheard_styles_are_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    short_band(monkeypatch)
    before = gather(SoundData(folders=[], band_loops=64), 44100)
    sound = gather(SoundData(folders=[], band_loops=64, held_out_styles=["waltz", "techno"]), 44100)
    unheard = [r for r in sound.held_out if r.kind == "band: unheard styles"]
    songs = {f"band-1-song-{song:05d}" for song in range(32)}
    styles = [style.name for style in crops.STYLES]
    assert {r.source for r in unheard} == {
        song for n, song in enumerate(sorted(songs)) if styles[n % 8] in ("waltz", "techno")
    }
    assert {r.kind for r in sound.train} == {"band"} and not {r.source for r in sound.train} & {
        r.source for r in unheard
    }
    # The others are split as they were.
    assert {r.source for r in sound.train} <= {r.source for r in before.train}
    with pytest.raises(PartimentoError, match="'walz'") as caught:
        gather(SoundData(folders=[], band_loops=8, held_out_styles=["walz"]), 44100)
    assert caught.value.code == "CODEC020"


def test_one_side_empty_is_an_error(tmp_path: Path) -> None:
    name = next(name for name in NAMES if not is_held_out(name))
    soundfile.write(tmp_path / name, np.zeros(1000), 44100)
    with pytest.raises(PartimentoError, match="held out") as caught:
        gather(SoundData(folders=[str(tmp_path)], band_loops=0), 44100)
    assert caught.value.code == "CODEC006"


def test_few_recordings_are_on_both_sides(tmp_path: Path) -> None:
    """A user of eight loops is no error, whatever their names; loose files of one folder are one group."""
    trained = [name for name in (f"{n}.wav" for n in range(60)) if not is_held_out(name)]
    held = [name for name in (f"{n}.wav" for n in range(60)) if is_held_out(name)]
    for names in (trained[:8], held[:2]):
        alone = crops.held_out_of(names)
        assert len(alone) == 1 and alone == crops.held_out_of(names[::-1])
    assert crops.held_out_of(trained[:8] + held[:2]) == set(held[:2])
    assert crops.held_out_of(trained[:1]) == set() and crops.held_out_of(held[:1]) == {held[0]}
    for number, name in enumerate(trained[:4]):
        soundfile.write(tmp_path / name, np.full(1000, 0.1 * number), 44100)
    sound = gather(SoundData(folders=[str(tmp_path)], band_loops=0), 44100)
    assert (len(sound.train), len(sound.held_out)) == (3, 1)
    with pytest.raises(PartimentoError) as caught:
        gather(SoundData(folders=[str(tmp_path)], band_loops=0, group="folder"), 44100)
    assert caught.value.next == "data.group=file"


def test_a_copy_under_another_name_is_on_the_side_of_what_is_held_out(folder: Path, tmp_path: Path) -> None:
    held = next(path for path in discover(folder) if is_held_out(path.name))
    name = next(name for name in (f"copy{n}.wav" for n in range(9)) if not is_held_out(name))
    (tmp_path / name).write_bytes(held.read_bytes())
    sound = gather(SoundData(folders=[str(folder), str(tmp_path)], band_loops=0), 44100)
    assert {held.name, name} <= {r.source for r in sound.held_out}
    assert name not in {r.source for r in sound.train}


def test_kinds_are_drawn_by_their_shares() -> None:
    recordings = [only("band", 400), only("loops", 100), only("loops", 900), only("tunes", 5000)]
    assert chances(recordings, {}) == pytest.approx([1 / 3, 1 / 12, 1 / 4, 1 / 3])
    assert chances(recordings, {"band": 0, "tunes": 3.0}) == pytest.approx([0, 1 / 16, 3 / 16, 3 / 4])


@pytest.mark.parametrize("shares", [{"tones": 1.0}, {"loops": 0.0}])
def test_shares_of_nothing_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(PartimentoError, match=r"tones|share 0") as caught:
        Crops([only("loops", 10)], 16, shares)
    assert caught.value.code == "CODEC020"


def test_a_kind_without_a_share_is_never_heard() -> None:
    silent_or_loud = Crops([only("a", 4000, 0.0), only("b", 9000), only("c", 4000, 0.0)], 512, {"b": 0})
    assert not any(silent_or_loud.draw(1, item).any() for item in range(50))


def test_crops_are_functions_of_their_key() -> None:
    rng = np.random.default_rng(0)
    recordings = [
        Recording(str(n), kind, rng.standard_normal(samples).astype(np.float32), "", str(n))
        for n, (kind, samples) in enumerate([("band", 5000), ("real", 300), ("real", 90000)])
    ]
    first = Crops(recordings, 2048, {"band": 0.5})
    drawn = [first.draw(1, step, item) for step in range(20) for item in range(4)]
    assert all(wave.shape == (2048,) and wave.dtype == np.float32 for wave in drawn)
    assert all(np.isfinite(wave).all() and np.abs(wave).max() <= 1 for wave in drawn)
    again = Crops(recordings, 2048, {"band": 0.5})
    assert np.array_equal(again.draw(1, 7, 3), drawn[7 * 4 + 3])
    assert not np.array_equal(again.draw(2, 7, 3), drawn[7 * 4 + 3])
    assert sum(float(np.abs(wave).max()) > 0 for wave in drawn) > 70


def test_recordings_come_in_one_order(folder: Path) -> None:
    sound = gather(SoundData(folders=[str(folder)], band_loops=0), 44100)
    paths = [path.name for path in discover(folder)]
    assert [r.source for r in sound.train] == [name for name in paths if not is_held_out(name)]

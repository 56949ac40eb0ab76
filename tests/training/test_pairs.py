"""Pairs for restorers: pure functions of their key, in time, never the same source on both sides; and written ones."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from partimento import commit
from partimento.audio import shift
from partimento.errors import PartimentoError
from partimento.sound_settings import PairData
from partimento.training import pairjobs, pairwriting
from partimento.training.damage import Damage
from partimento.training.pairfiles import Row, read
from partimento.training.pairwriting import write_pairs
from partimento.training.tasks import pairs as pairs_module
from partimento.training.tasks.crops import is_held_out
from partimento.training.tasks.pairs import Pairs

RATE = 8000
SHIFTS = (-12.0, 3.0, 12.0)
NAMES = [f"take{number}.wav" for number in range(13)]


def tune(number: int, seconds: float) -> np.ndarray:
    """Notes with attacks and some breath."""
    rng = np.random.default_rng(number)
    time_N = np.arange(round(seconds * RATE)) / RATE
    wave_N = 0.01 * rng.standard_normal(len(time_N))
    for start in np.arange(0, seconds, 0.23):
        decay = np.exp(-np.maximum(time_N - start, 0) * 8) * (time_N >= start)
        hz = 220 * 2 ** (rng.integers(0, 24) / 12)
        wave_N += 0.2 * decay * sum(np.sin(2 * np.pi * hz * k * time_N) / k for k in (1, 2, 3))
    return wave_N.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of a second or two, and one shorter than a crop."""
    root = tmp_path_factory.mktemp("pairs") / "tunes"
    root.mkdir()
    for number, name in enumerate(NAMES):
        soundfile.write(root / name, tune(number, 0.1 if number == 2 else 1 + number / 12), RATE, "FLOAT")
    return root


def data(folder: Path, **given: object) -> PairData:
    wanted = {"folders": [str(folder)], "semitones": list(SHIFTS), "sample_rate": RATE, **given}
    return PairData.model_validate(wanted)


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Pairs:
    return Pairs.open(data(folder))


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("written") / "pairs"
    write_pairs([folder], to, semitones=SHIFTS, sample_rate=RATE, jobs=1)
    return to


def test_a_crop_is_a_function_of_its_key(folder: Path, pairs: Pairs) -> None:
    again = Pairs.open(data(folder))
    keys = [(1, step, item) for step in range(3) for item in range(4)]
    first = [pairs.draw(2048, *parts) for parts in keys]
    for parts, crop in reversed(list(zip(keys, first, strict=True))):  # another order changes nothing
        other = again.draw(2048, *parts)
        assert other.semitones == crop.semitones
        assert np.array_equal(other.damaged_N, crop.damaged_N) and np.array_equal(other.target_N, crop.target_N)
    assert len({crop.target_N.tobytes() for crop in first}) == len(first)
    assert {crop.semitones for crop in first} == set(SHIFTS)
    assert pairs.identity == again.identity and pairs.identity["engine"] == shift.engine_version()


def test_shares_are_those_of_the_configuration(folder: Path) -> None:
    with pytest.raises(PartimentoError, match="CODEC020"):
        Pairs.open(data(folder, shares={"nothing of this name": 1.0}))


def test_crops_have_their_length_level_and_silence(pairs: Pairs) -> None:
    crops = [pairs.draw(4096, "length", item) for item in range(60)]
    for crop in crops:
        assert crop.damaged_N.shape == crop.target_N.shape == (4096,)
        assert crop.damaged_N.dtype == crop.target_N.dtype == np.float32
        assert np.abs(crop.target_N).max() <= 10 ** (3 / 20)
        assert not crop.damaged_N[np.cumsum(np.abs(crop.target_N)) == 0].any()  # before a recording
    levels = [20 * np.log10(np.sqrt(np.mean(crop.target_N**2)) + 1e-9) for crop in crops]
    assert np.std(levels) > 3
    assert any(not crop.target_N[:100].any() for crop in crops) and any(crop.target_N[:10].all() for crop in crops)


def test_pairs_are_in_time(pairs: Pairs) -> None:
    """Envelopes of 4 ms of damaged and target agree best within 4 ms, over many crops."""
    lags = range(-8, 9)
    agreement = np.zeros(len(lags))
    for item in range(40):
        crop = pairs.draw(8192, "time", item)
        before, after = (np.sqrt((w.reshape(-1, 32) ** 2).mean(1)) for w in (crop.target_N, crop.damaged_N))
        before, after = before - before.mean(), after - after.mean()
        agreement += [float(np.dot(before, np.roll(after, -lag))) for lag in lags]
    assert abs(lags[int(np.argmax(agreement))]) <= 1


def test_no_source_is_on_both_sides(folder: Path, pairs: Pairs) -> None:
    held = {name for name in NAMES if is_held_out(name)}
    judged = pairs.judged(100, 0.5)
    assert {excerpt.source for excerpt in judged} == held and held
    assert pairs.train == (13 - len(held)) * len(SHIFTS)


def test_what_is_judged_is_fixed_and_balanced(folder: Path, pairs: Pairs) -> None:
    held = sum(is_held_out(name) for name in NAMES)
    every = pairs.judged(1000, 0.4)
    combinations = Counter((excerpt.source, excerpt.semitones) for excerpt in every)
    assert len(combinations) == held * len(SHIFTS) and set(combinations.values()) == {1}
    few = Pairs.open(data(folder)).judged(3, 0.4)
    assert [e.semitones for e in few] == list(SHIFTS)
    for one, other in zip(few, every, strict=False):
        assert one.source == other.source and np.array_equal(one.damaged_N, other.damaged_N)
        assert one.damaged_N.shape == one.target_N.shape and len(one.target_N) <= round(0.4 * RATE)


def test_recordings_that_have_no_room_are_shifted_in_pieces(
    folder: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs_module, "WHOLE_BYTES", 0)
    pieces = Pairs.open(data(folder))
    assert pieces.identity["shifted"] == "pieces" and pairs.identity["shifted"] == "whole"
    for item in range(6):
        one, other = pieces.draw(2048, item), pairs.draw(2048, item)
        assert np.array_equal(one.target_N, other.target_N) and one.semitones == other.semitones
        power, its = float((one.damaged_N**2).sum()), float((other.damaged_N**2).sum())
        assert power == pytest.approx(its, rel=0.5, abs=1e-3)  # the same sound at other phases
        assert np.array_equal(one.damaged_N, pieces.draw(2048, item).damaged_N)


def spectrum_above(wave_N: np.ndarray, hz: float) -> float:
    power = np.abs(np.fft.rfft(wave_N * np.hanning(len(wave_N)))) ** 2
    return float(power[round(hz * len(wave_N) / RATE) :].sum() / power.sum())


def test_nothing_is_asked_for_that_the_shift_has_pushed_out_of_the_band() -> None:
    noise_N = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    unshift = Damage("unshift", RATE, True)
    assert spectrum_above(unshift.target(noise_N, 12), 2050) < 1e-4 < 0.3 < spectrum_above(noise_N, 2050)
    assert len(unshift.target(noise_N, 7)) == len(unshift.target(noise_N[:7999], 7)) + 1 == RATE
    for kept in (unshift.target(noise_N, -12), Damage("clean", RATE, True).target(noise_N, 12)):
        assert np.array_equal(kept, noise_N)
    assert spectrum_above(Damage("clean", RATE, False).target(noise_N, 12), 2050) < 1e-4
    assert np.array_equal(unshift.damaged(noise_N, 0), noise_N)


def test_an_unshift_pair_is_another_pitch() -> None:
    wave_N = (0.3 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)).astype(np.float32)
    damaged_N = Damage("unshift", RATE, True).damaged(wave_N, 12)
    assert np.argmax(np.abs(np.fft.rfft(damaged_N))) == pytest.approx(1000, abs=10)


def test_an_excerpt_has_no_edge_of_its_own() -> None:
    """A steady tone, shifted from the middle of a recording, has the same level at the ends of the excerpt."""
    wave_N = (0.3 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)).astype(np.float32)
    damaged_N, target_N = Damage("clean", RATE, True).excerpt(wave_N, 3, 2 * RATE, 2 * RATE + 4000)
    levels = np.sqrt((damaged_N.reshape(-1, 100) ** 2).mean(1)) / np.sqrt((target_N**2).mean())
    assert levels.min() > 0.85 and levels.max() < 1.15


# ---- written -----------------------------------------------------------------------------------------------------


def test_written_pairs_are_those_of_memory(folder: Path, pairs: Pairs, written: Path) -> None:
    of_files = Pairs.open(PairData(pairs=str(written), sample_rate=RATE))
    assert of_files.train == pairs.train and of_files.semitones == pairs.semitones
    assert {e.source for e in of_files.judged(99, 1)} == {e.source for e in pairs.judged(99, 1)}
    header, rows, _ = read(written)
    assert header.pairs == len(rows) == 39 and header.recordings == 13
    for row in rows:
        damaged_N, target_N = (soundfile.read(written / name, dtype="float32")[0] for name in (row.damaged, row.target))
        original_N = soundfile.read(folder / row.source, dtype="float32")[0]
        assert np.array_equal(target_N, original_N)
        assert np.array_equal(damaged_N, shift.round_trip(original_N[None], RATE, row.semitones)[0])
    a, b = of_files.draw(2048, 1, 2), of_files.draw(2048, 1, 2)
    assert np.array_equal(a.damaged_N, b.damaged_N) and a.damaged_N.any()


def test_what_exceeds_full_scale_is_written_whole(tmp_path: Path) -> None:
    folder = tmp_path / "loud"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        soundfile.write(folder / name, np.clip(3 * tune(number, 0.5), -1, 1), RATE, "FLOAT")
    write_pairs([folder], tmp_path / "p", semitones=[3], sample_rate=RATE, jobs=1)
    peaks = [np.abs(soundfile.read(tmp_path / "p" / row.damaged)[0]).max() for row in read(tmp_path / "p")[1]]
    assert max(peaks) > 1.01


def test_a_second_writing_makes_nothing_and_more_processes_make_the_same(folder: Path, written: Path) -> None:
    before = (written / "pairs.jsonl").read_bytes()
    assert {soundfile.info(path).subtype for path in (written / "audio").iterdir()} == {"FLOAT"}
    report = write_pairs([folder], written, semitones=SHIFTS, sample_rate=RATE, jobs=1)
    assert report.reused == report.recordings == 13 and (written / "pairs.jsonl").read_bytes() == before
    (written / "pairs.jsonl").unlink()
    one, *_ = sorted((written / "audio").iterdir())
    one.write_bytes(b"cut")
    report = write_pairs([folder], written, semitones=SHIFTS, sample_rate=RATE, jobs=1)
    assert report.reused == 12 and (written / "pairs.jsonl").read_bytes() == before


def test_unreadable_recordings_are_listed_and_a_dry_run_foretells(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in folder.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "page.wav").write_text("<html>")
    soundfile.write(source / "spark.wav", np.zeros(1), 192000)  # no sample is left of it at 8 kHz
    estimate = write_pairs([source], tmp_path / "p", semitones=[-3, 0], sample_rate=RATE, dry_run=True)
    assert not (tmp_path / "p").exists()
    report = write_pairs([source], tmp_path / "p", semitones=[-3, 0], sample_rate=RATE, jobs=1)
    assert [r["file"] for r in report.rejected] == ["source/page.wav", "source/spark.wav"]
    assert [r["file"] for r in estimate.rejected] == ["source/page.wav"]
    assert read(tmp_path / "p")[0].rejected == report.rejected
    assert (estimate.recordings, estimate.pairs, estimate.held_out) == (14, 28, report.held_out)
    assert estimate.bytes == pytest.approx(report.bytes, rel=0.01) and estimate.hours == report.hours


def test_other_settings_and_few_recordings_are_refused(folder: Path, written: Path, tmp_path: Path) -> None:
    with pytest.raises(PartimentoError) as err:
        write_pairs([folder], written, semitones=[1], sample_rate=RATE, jobs=1)
    assert err.value.code == "PAIRS002" and "semitones" in str(err.value)
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    soundfile.write(lonely / "0.wav", tune(0, 0.1), RATE, "FLOAT")
    with pytest.raises(PartimentoError) as err:
        write_pairs([lonely], tmp_path / "p", semitones=[1], sample_rate=RATE, jobs=1)
    assert err.value.code == "PAIRS001"


def test_two_recordings_are_on_both_sides(tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    heard = [name for name in (f"{n}.wav" for n in range(60)) if not is_held_out(name)]
    for number, name in enumerate(heard[:2]):
        soundfile.write(few / name, tune(number, 0.1), RATE, "FLOAT")
    estimate = write_pairs([few], tmp_path / "p", semitones=[1], sample_rate=RATE, dry_run=True)
    report = write_pairs([few], tmp_path / "p", semitones=[1], sample_rate=RATE, jobs=1)
    assert (estimate.train, estimate.held_out) == (report.train, report.held_out) == (1, 1)
    assert sorted(row.split for row in read(tmp_path / "p")[1]) == ["held_out", "train"]


def test_a_copy_is_written_to_the_side_of_what_is_held_out(tmp_path: Path) -> None:
    names = [f"{n}.wav" for n in range(60)]
    held = next(name for name in names if is_held_out(name))
    heard = [name for name in names if not is_held_out(name)][:2]
    for number, name in enumerate((held, *heard)):
        soundfile.write(tmp_path / name, tune(number % 2, 0.1), RATE, "FLOAT")  # the last is the first again
    write_pairs([tmp_path], tmp_path / "p", semitones=[1], sample_rate=RATE, jobs=1)
    assert {row.source: row.split for row in read(tmp_path / "p")[1]} == {
        held: "held_out", heard[0]: "train", heard[1]: "held_out",
    }  # fmt: skip


def test_two_writers_do_not_meet(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with commit.lock(tmp_path / "p" / "lock"), pytest.raises(PartimentoError) as err:
        write_pairs([folder], tmp_path / "p", semitones=[1], sample_rate=RATE, jobs=1)
    assert err.value.code == "PAIRS007"


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    to = tmp_path / "copied"
    for path in written.rglob("*"):
        if path.is_file():
            (to / path.relative_to(written)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(written)).write_bytes(path.read_bytes())
    return to


def cut_manifest(folder: Path) -> None:
    path = folder / "pairs.jsonl"
    path.write_bytes(path.read_bytes()[:-40])


def drop_a_line(folder: Path) -> None:
    path = folder / "pairs.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def lead_outside(folder: Path) -> None:
    path = folder / "pairs.jsonl"
    path.write_text(path.read_text().replace('"damaged": "audio/', '"damaged": "../audio/'))


@pytest.mark.parametrize("harm", [cut_manifest, drop_a_line, lead_outside, lambda f: (f / "pairs.jsonl").unlink()])
def test_a_manifest_that_was_changed_is_refused(copied: Path, harm: Callable[[Path], None]) -> None:
    harm(copied)
    with pytest.raises(PartimentoError) as err:
        Pairs.open(PairData(pairs=str(copied), sample_rate=RATE))
    assert err.value.code == "PAIRS003"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-4]), flip])
def test_a_file_that_was_changed_is_refused_when_it_is_used(copied: Path, harm: Callable[[Path], None]) -> None:
    for path in (copied / "audio").glob("*_-12.wav"):
        harm(path)
    opened = Pairs.open(PairData(pairs=str(copied), sample_rate=RATE))
    with pytest.raises(PartimentoError) as err:
        [opened.draw(2048, item) for item in range(50)]
    assert err.value.code == "PAIRS004" and "_-12.wav" in str(err.value.where)


@pytest.mark.parametrize("given", [{"sample_rate": 44100}, {"sample_rate": RATE, "task": "unshift"}])
def test_pairs_that_were_made_for_something_else_are_refused(written: Path, given: dict) -> None:
    with pytest.raises(PartimentoError) as err:
        Pairs.open(PairData.model_validate({"pairs": str(written), **given}))
    assert err.value.code == "PAIRS005"


def test_a_worker_that_died_is_a_coded_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, *_: object) -> object:
            future: pairjobs.Future = pairjobs.Future()
            future.set_exception(pairjobs.BrokenProcessPool())
            return future

    monkeypatch.setattr(pairjobs, "ProcessPoolExecutor", Dying)
    with pytest.raises(PartimentoError) as err:
        write_pairs([folder], tmp_path / "p", semitones=[1], sample_rate=RATE, jobs=2)
    assert err.value.code == "PAIRS006"


def test_a_full_disk_is_sys002_and_leaves_no_list(folder: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(PartimentoError) as err:
            write_pairs([folder], tmp_path / "p", semitones=[1], sample_rate=RATE, jobs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert err.value.code == "SYS002" and not (tmp_path / "p" / "pairs.jsonl").exists()
    assert not list((tmp_path / "p").rglob("*.tmp*"))


KILLED = """
import os, signal, sys
from pathlib import Path
from partimento.training import pairwriting
kept = []
def dying(job, rows, keep=pairwriting.keep):
    keep(job, rows)
    kept.append(job)
    if len(kept) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
pairwriting.keep = dying
pairwriting.write_pairs([Path(sys.argv[1])], Path(sys.argv[2]), semitones=(-12, 3, 12), sample_rate=8000, jobs=1)
"""


def test_a_killed_writer_goes_on_and_ends_the_same(folder: Path, written: Path, tmp_path: Path) -> None:
    to = tmp_path / "p"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(to)], timeout=120)
    assert ended.returncode == -signal.SIGKILL and not (to / "pairs.jsonl").exists()
    report = write_pairs([folder], to, semitones=SHIFTS, sample_rate=RATE, jobs=1)
    assert report.reused == 5
    assert (to / "pairs.jsonl").read_bytes() == (written / "pairs.jsonl").read_bytes()
    assert {p.name for p in (to / "audio").iterdir()} == {p.name for p in (written / "audio").iterdir()}


@pytest.mark.slow
def test_many_processes_write_the_same_and_die_with_the_first(folder: Path, written: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from partimento.training.pairwriting import write_pairs\n"
        "if __name__ == '__main__':\n"
        "    write_pairs([Path(sys.argv[1])], Path(sys.argv[2]), semitones=(-12, 3, 12), sample_rate=8000, jobs=2)\n"
    )
    script = tmp_path / "write.py"
    script.write_text(program)
    to = tmp_path / "p"
    with subprocess.Popen([sys.executable, str(script), str(folder), str(to)], start_new_session=True) as writer:
        while not list((to / "journal").glob("*.json")) and writer.poll() is None:
            time.sleep(0.05)
        writer.kill()
    deadline = time.monotonic() + 60
    while in_session(writer.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert in_session(writer.pid) == []
    subprocess.run([sys.executable, str(script), str(folder), str(to)], check=True, timeout=300)
    assert (to / "pairs.jsonl").read_bytes() == (written / "pairs.jsonl").read_bytes()


def in_session(leader: int) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "sid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split(None, 1)[0] == str(leader) and "<defunct>" not in line]


def test_a_row_is_strict() -> None:
    row = dict.fromkeys(Row.model_fields, "a") | {"split": "train", "samples": 1, "semitones": 1.0}
    assert Row.model_validate(row).samples == 1
    for wrong in ({"split": "test"}, {"samples": 0}, {"damaged": "/etc/a"}, {"more": 1}):
        with pytest.raises(ValueError):
            Row.model_validate(row | wrong)
    assert json.loads(Row.model_validate(row).model_dump_json())["split"] == "train"
    assert pairwriting.MANIFEST == "pairs.jsonl"

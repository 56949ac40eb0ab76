"""Files that are in order: what goes in comes out, in this process and in the child."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from partimento import commit
from partimento.audio import child, files
from partimento.audio.crc import arc
from partimento.errors import PartimentoError

from .conftest import RATE, tone

LOSSLESS = ("wav", "wav24", "float", "aiff", "flac", "flac24")


def code(caught: pytest.ExceptionInfo[PartimentoError]) -> str:
    return caught.value.code


@pytest.mark.parametrize("kind", [*LOSSLESS, "ulaw", "adpcm", "ogg", "opus", "mp3"])
def test_reads_every_kind_alike_in_both_processes(good: dict[str, Path], kind: str) -> None:
    here, there = files.read(good[kind]), files.read_isolated(good[kind])
    np.testing.assert_array_equal(here.wave_CN, there.wave_CN)
    assert (here.sample_rate, here.container, here.decoder) == (there.sample_rate, there.container, there.decoder)
    expected, rate = soundfile.read(good[kind], dtype="float32")
    assert here.sample_rate == rate
    np.testing.assert_array_equal(here.wave_CN, expected.T)
    assert here.wave_CN.dtype == np.float32 and here.wave_CN.flags.c_contiguous


@pytest.mark.parametrize(
    ("suffix", "rate", "tolerance"),
    [(".wav", RATE, 2e-5), (".flac", RATE, 2e-5), (".ogg", RATE, 0.05), (".mp3", RATE, 0.05), (".opus", 48000, 0.05)],
)
def test_sine_through_each_format(tmp_path: Path, suffix: str, rate: int, tolerance: float) -> None:
    t = np.arange(rate) / rate
    wave_CN = np.stack([0.5 * np.sin(2 * np.pi * 997 * t), 0.25 * np.sin(2 * np.pi * 440 * t)]).astype(np.float32)
    path = tmp_path / f"sine{suffix}"
    assert files.write(path, wave_CN, rate) == 0
    found = files.read_isolated(path)
    assert found.sample_rate == rate
    assert found.wave_CN.shape == wave_CN.shape
    inner = slice(rate // 10, -rate // 10)
    assert np.abs(found.wave_CN - wave_CN)[:, inner].max() < tolerance


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_whole_numbers_survive_write_and_read(tmp_path: Path, suffix: str, subtype: str, bits: int) -> None:
    scale = 2 ** (bits - 1)
    whole = np.random.default_rng(0).integers(-scale, scale, (2, 5000))
    whole[0, :2] = -scale, scale - 1
    path = tmp_path / f"exact{suffix}"
    files.write(path, (whole / scale).astype(np.float32), RATE, subtype)
    np.testing.assert_array_equal(np.rint(files.read(path).wave_CN * float(scale)).astype(int), whole)


def test_write_scales_nothing_and_counts_what_clips(tmp_path: Path) -> None:
    wave_CN = np.array([[0.0, 0.5, 1.0, 1.5, -2.0, -1.0, 0.25]], np.float32)
    assert files.write(tmp_path / "a.wav", wave_CN, RATE) == 2
    np.testing.assert_allclose(files.read(tmp_path / "a.wav").wave_CN, np.clip(wave_CN, -1, 1), atol=4e-5)
    assert files.write(tmp_path / "b.wav", wave_CN, RATE, "FLOAT") == 0
    np.testing.assert_array_equal(files.read(tmp_path / "b.wav").wave_CN, wave_CN)


def test_write_rounds_to_the_nearest_step(tmp_path: Path) -> None:
    steps = np.array([[0.4, 0.6, -0.4, -0.6, 1.5001, 2.4999]], np.float32)
    files.write(tmp_path / "a.wav", steps / 32768, RATE)
    assert (files.read(tmp_path / "a.wav").wave_CN * 32768).tolist() == [[0, 1, 0, -1, 2, 2]]


@pytest.mark.parametrize(
    ("wave", "name"),
    [
        (np.full((1, 10), np.nan), "nan.wav"),
        (np.full((1, 10), np.inf), "inf.wav"),
        (np.zeros((1, 0)), "none.wav"),
        (np.zeros(10), "flat.wav"),
        (np.zeros((1000, 2)), "turned.wav"),
        (np.zeros((1, 10)), "odd.xyz"),
        (np.zeros((1, 10)), "bare"),
        (np.zeros((1, 1000)), "rate.opus"),
    ],
)
def test_write_refuses(tmp_path: Path, wave: np.ndarray, name: str) -> None:
    with pytest.raises(PartimentoError) as caught:
        files.write(tmp_path / name, wave, RATE)
    assert code(caught) == "AUDIO011"
    assert list(tmp_path.iterdir()) == []


def test_write_leaves_the_old_file_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    files.write(path, np.full((1, 100), 0.5, np.float32), RATE)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commit, "_fsync", full)
    with pytest.raises(PartimentoError) as caught:
        files.write(path, np.zeros((1, 100), np.float32), RATE)
    assert code(caught) == "SYS002"
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- resampling and channels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"), [(44100, 48000), (48000, 44100), (44100, 16000), (22050, 44100), (96000, 44100)]
)
def test_resampled_sine_is_the_same_sine(old: int, new: int) -> None:
    def sine(rate: int) -> np.ndarray:
        return np.stack([0.8 * np.sin(2 * np.pi * hz * np.arange(rate) / rate) for hz in (440.0, 3000.0)])

    out_CN = files.resample(sine(old).astype(np.float32), old, new)
    assert out_CN.shape == (2, new) and out_CN.dtype == np.float32
    inner = slice(new // 10, -new // 10)
    assert np.abs(out_CN - sine(new))[:, inner].max() < 1e-5


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    t = np.arange(44100) / 44100
    out_CN = files.resample(np.sin(2 * np.pi * 10000 * t)[None].astype(np.float32), 44100, 16000)
    assert np.abs(out_CN[:, 1600:-1600]).max() < 1e-4


@pytest.mark.parametrize("samples", [1, 2, 7, 441, 1000, 44101])
def test_resampled_length_is_exact(samples: int) -> None:
    for old, new in ((44100, 48000), (48000, 44100), (44100, 8000), (8000, 44100)):
        out_CN = files.resample(np.ones((1, samples), np.float32), old, new)
        assert out_CN.shape == (1, int(np.floor(samples * new / old + 0.5)))


def test_same_rate_is_untouched() -> None:
    wave_CN = tone().T
    np.testing.assert_array_equal(files.resample(wave_CN, RATE, RATE), wave_CN)


def test_downmix_is_the_mean() -> None:
    wave_CN = np.array([[1.0, 0.0, -1.0], [0.0, 0.5, -1.0]], np.float32)
    np.testing.assert_array_equal(files.to_mono(wave_CN), [[0.5, 0.25, -1.0]])


# ---- finding ---------------------------------------------------------------------------------------------------


def test_discover(tmp_path: Path) -> None:
    for name in ("b.wav", "a.FLAC", "deep/er/c.mp3", "notes.txt", ".hidden.wav", ".git/d.wav", "odd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    named = [path.relative_to(tmp_path).as_posix() for path in files.discover(tmp_path)]
    assert named == ["a.FLAC", "b.wav", "deep/er/c.mp3"]
    both = files.discover([tmp_path / "deep", tmp_path / "odd", tmp_path / "deep/er/c.mp3"])
    assert [path.name for path in both] == ["c.mp3", "odd"]


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.wav").write_bytes(b"x")
    real = os.scandir

    def locked(path: str) -> object:  # permissions do not hold for root
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PartimentoError) as caught:
        files.discover(tmp_path)
    assert code(caught) == "SYS004" and "locked" in str(caught.value.where)


def test_discover_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(PartimentoError) as caught:
        files.discover(tmp_path / "absent")
    assert code(caught) == "SYS004"
    (tmp_path / "notes.txt").write_text("no music")
    for nothing in (tmp_path, []):
        with pytest.raises(PartimentoError) as caught:
            files.discover(nothing)
        assert code(caught) == "AUDIO001"


# ---- the child -------------------------------------------------------------------------------------------------


def fake_child(script: str, stall_seconds: float = 5.0) -> child.Decoder:
    return child.Decoder(stall_seconds=stall_seconds, command=[sys.executable, "-S", "-c", script])


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("raise SystemExit(3)", "status 3"),
        ("import time; time.sleep(60)", "nothing for 0.3 s"),
        ("import os, time; os.write(1, b'F' + bytes(3)); time.sleep(60)", "nothing for 0.3 s"),
        ("import os; os.write(1, b'B' + b'\\xff' * 8)", "no sense"),
        ("import os; os.write(1, b'?' + bytes(8))", "no sense"),
    ],
)
def test_a_decoder_that_crashes_or_hangs_is_an_error(good: dict[str, Path], script: str, why: str) -> None:
    decoder = fake_child(script, stall_seconds=0.3 if "sleep" in script else 20.0)
    with pytest.raises(PartimentoError, match=why) as caught, decoder.stream(good["wav"]):
        pass
    assert code(caught) == "AUDIO009"
    assert decoder.child.process is None  # nothing is left running


def test_a_killed_or_frozen_child_costs_one_file(good: dict[str, Path]) -> None:
    decoder = child.Decoder(stall_seconds=20)

    def frames() -> int:
        with decoder.stream(good["wav"]) as (_, parts):
            return sum(len(part) for part in parts)

    assert frames() == RATE
    assert decoder.child.process is not None
    first = decoder.child.process.pid
    assert frames() == RATE and decoder.child.process.pid == first  # one child serves many files
    os.kill(first, signal.SIGSTOP)
    decoder._stall = 0.3
    with pytest.raises(PartimentoError) as caught:
        frames()
    assert code(caught) == "AUDIO009"
    decoder._stall = 20
    assert frames() == RATE and decoder.child.process.pid != first
    os.kill(decoder.child.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, decoder.child.process.pid, os.WEXITED | os.WNOWAIT)
    assert frames() == RATE  # it had died between two files: another takes its place
    decoder.close()


def test_a_caller_that_stops_reading_does_not_confuse_the_next(good: dict[str, Path]) -> None:
    decoder = child.Decoder()
    with decoder.stream(good["wav"]) as (facts, parts):
        assert facts.frames == RATE
        del parts
    with decoder.stream(good["flac24"]) as (facts, parts):
        assert facts.container == "flac" and sum(map(len, parts)) == RATE
    decoder.close()


def test_threads_take_turns(good: dict[str, Path]) -> None:
    found: dict[str, tuple[int, ...]] = {}
    jobs = [
        threading.Thread(target=lambda k=k: found.update({k: files.read_isolated(good[k]).wave_CN.shape}))
        for k in LOSSLESS
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert set(found.values()) == {(2, RATE)} and len(found) == len(LOSSLESS)


def test_a_forked_process_starts_its_own_child(good: dict[str, Path]) -> None:
    """As encode workers do. In a fresh interpreter, since pytest's has threads."""
    script = f"""
import os
from pathlib import Path
from partimento.audio import child, files
path = Path({str(good["wav"])!r})
files.read_isolated(path)
mine = child.shared().child.process.pid
if (pid := os.fork()) == 0:
    files.read_isolated(path)
    os._exit(0 if child.shared().child.process.pid != mine else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
files.read_isolated(path)
assert child.shared().child.process.pid == mine
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_child_ends_with_its_caller(good: dict[str, Path]) -> None:
    script = f"""
import os
from pathlib import Path
from partimento.audio import child, files
files.read_isolated(Path({str(good["wav"])!r}))
print(child.shared().child.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=False)
    pid = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the child lives on")


def test_other_voices_on_stderr_are_passed_on(good: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()

    def talk() -> None:
        while not stop.is_set():
            os.write(2, b"a voice of another thread\n")
            time.sleep(0.0005)

    talker = threading.Thread(target=talk)
    talker.start()
    for _ in range(10):
        assert files.read(good["mp3"]).wave_CN.shape == (2, RATE)
    stop.set()
    talker.join()
    assert set(capfd.readouterr().err.split("\n")) == {"a voice of another thread", ""}


def test_checksum_of_lame_against_a_plain_loop() -> None:
    data = np.random.default_rng(0).bytes(5000)
    state = 0
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0xA001 if state & 1 else 0)
    assert arc(data) == state
    assert arc(b"123456789") == 0xBB3D  # the published check value of CRC-16/ARC


# ---- ffmpeg ----------------------------------------------------------------------------------------------------

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def by_ffmpeg(source: Path, to: Path, *options: str) -> Path:
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *options, to], check=True, stdin=subprocess.DEVNULL)
    return to


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.aac"])
def test_foreign_files(good: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = by_ffmpeg(good["wav"], tmp_path / name, "-b:a", "192k")
    found = files.read_isolated(path)
    assert found.decoder == "ffmpeg" and found.wave_CN.shape[0] == 2
    assert 0.9 < found.seconds < 1.2
    spectrum = np.abs(np.fft.rfft(found.wave_CN[0]))
    assert abs(spectrum.argmax() * found.sample_rate / found.wave_CN.shape[1] - 997) < 2
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(PartimentoError) as caught:
        files.read_isolated(path)
    assert code(caught) == "AUDIO005"


@needs_ffmpeg
def test_foreign_file_longer_than_allowed(good: dict[str, Path], tmp_path: Path) -> None:
    path = by_ffmpeg(good["wav"], tmp_path / "a.m4a")
    with pytest.raises(PartimentoError) as caught:
        files.read(path, max_seconds=0.3)
    assert code(caught) == "AUDIO008"


@needs_ffmpeg
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-write_xing", "0"),
        ("-b:a", "320k"),
        ("-q:a", "9", "-ar", "16000", "-ac", "1"),
        ("-ar", "22050"),
        ("-ac", "1", "-b:a", "64k"),
    ],
)
def test_mp3_of_another_writer(good: dict[str, Path], tmp_path: Path, options: tuple[str, ...]) -> None:
    found = files.read(by_ffmpeg(good["wav"], tmp_path / "a.mp3", *options))
    assert abs(found.seconds - 1) < 0.06


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 32000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_of_every_version(tmp_path: Path, rate: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.mp3", tone(rate, rate)[:, :channels], rate, format="MP3")
    found = files.read(tmp_path / "a.mp3")
    assert found.wave_CN.shape == (channels, rate) and found.sample_rate == rate


def test_without_ffmpeg_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(PartimentoError, match="install ffmpeg") as caught:
        files.read(path)
    assert code(caught) == "AUDIO010"

"""`partimento restore`, `shift` and the weights of a restorer, as a user types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from partimento.cli.main import main
from partimento.errors import EXIT_STATUS, explanations

sys.path.append(str(Path(__file__).parents[1] / "play"))
from restorable import make_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("place")
    make_run(here / "runs", "r")
    generator = np.random.default_rng(0)
    (here / "in" / "deep").mkdir(parents=True)
    for name, sample_rate in (("a.wav", 8000), ("deep/b.flac", 96000)):
        soundfile.write(here / "in" / name, generator.uniform(-0.5, 0.5, (4000, 2)), sample_rate)
    return here


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    out = capsys.readouterr()
    return int(ended.value.code or 0), out.out, out.err


def test_restore(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "restore", "runs/r", "in", "--to", "out", "--device", "cpu")
    assert status == 0 and "out/deep/b.flac" in out and "what lies above 4000 Hz is kept as it was" in out
    status, out, _ = run(capsys, "restore", "runs/r", "in", "--to", "out", "--device", "cpu", "--json")
    told: dict[str, Any] = json.loads(out)
    assert status == 0 and [one["state"] for one in told["files"]] == ["there", "there"]
    assert told["files"][0]["samples"] == 4000 and told["files"][0]["channels"] == 2


def test_a_failure_is_told_and_the_rest_is_done(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    nan = np.zeros(100, np.float32)
    nan[50] = np.nan
    soundfile.write(place / "nan.wav", nan, 8000, subtype="FLOAT")
    status, out, _ = run(capsys, "restore", "runs/r", "nan.wav", "in/a.wav", "--to", "mixed", "--json")
    told = json.loads(out)
    assert status == 3 and told["error"]["code"] == "AUDIO006" and "nan.wav" in told["error"]["where"]
    assert {one["state"] for one in told["files"]} == {"made", "failed"}
    status, out, err = run(capsys, "restore", "runs/r", "nan.wav", "in/a.wav", "--to", "mixed")
    assert status == 3 and "AUDIO006" in out and "error[AUDIO006]" in err and " there " in out


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("runs/none", "in", "--to", "x"), "RUN001"),
        (("runs/r", "nothing.wav", "--to", "x"), "SYS004"),
        (("runs/r", "in", "--to", "in"), "RESTORE003"),
        (("runs/r", "in", "--to", "x", "--device", "cuda:7"), "TRAIN005"),
    ],
)
def test_wrong_requests(capsys: pytest.CaptureFixture[str], place: Path, args: tuple[str, ...], code: str) -> None:
    status, out, _ = run(capsys, "restore", *args, "--json")
    assert json.loads(out)["error"]["code"] == code
    assert status == EXIT_STATUS[explanations()[code].kind] != 0
    assert not (place / "x").exists()


def test_shift(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "shift", "in/a.wav", "--semitones", "-0.5", "--to", "down.wav", "--json")
    told = json.loads(out)
    assert status == 0 and told["semitones"] == -0.5 and told["files"][0]["samples"] == 4000
    assert "Stretch" in told["engine"] and told["latency"]["8000"] > 0 and "cleaner" in told
    status, out, _ = run(
        capsys, "shift", "in", "--semitones", "3", "--to", "up", "--cleaner", "runs/r", "--device", "cpu"
    )
    assert status == 0 and "shifted by +3 semitones" in out and "restored at 8000 Hz" in out
    status, _, err = run(capsys, "shift", "in/a.wav", "--semitones", "nan", "--to", "x.wav")
    assert status == 2 and "nan" in err
    status, _, err = run(capsys, "shift", "in/a.wav", "--semitones", "1", "--to", "down.wav", "--cleaner", "none")
    assert status == 3 and "RESTORE004" in err


def test_weights_of_a_restorer(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    status, out, _ = run(capsys, "weights", "export", "runs/r", "--to", "weights/mine", "--json")
    told = json.loads(out)
    assert status == 0 and told["source"]["run"] == "r" and told["weights_bytes"] < 200_000
    status, out, _ = run(capsys, "weights", "inspect", "weights/mine")
    assert status == 0 and "spectral" in out and "-3, 3" in out and told["weights_sha256"] in out
    status, out, _ = run(capsys, "restore", "weights/mine", "in/a.wav", "--to", "by_folder", "--json")
    assert status == 0 and json.loads(out)["files"][0]["state"] == "made"
    status, _, err = run(capsys, "weights", "export", "runs/r", "--to", "weights/other", "--as", "nari")
    assert status == 2 and "WEIGHTS009" in err and not (place / "weights" / "other").exists()
    (place / "weights" / "mine" / "weights.safetensors").write_bytes(b"")
    status, _, err = run(capsys, "weights", "inspect", "weights/mine")
    assert status == 4 and "PUB002" in err and "weights.safetensors" in err


def test_ctrl_c_leaves_no_half_file(place: Path) -> None:
    with soundfile.SoundFile(place / "long.wav", "w", 8000, 2) as file:
        for _ in range(200):
            file.write(np.random.default_rng(1).uniform(-0.5, 0.5, (80000, 2)))
    command = [sys.executable, "-m", "partimento", "restore", "runs/r", "in/a.wav", "long.wav", "--to", "stopped", "-q"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(place.glob("stopped/long.*.tmp.wav")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "SYS003" in err
    assert sorted(path.name for path in (place / "stopped").iterdir()) == ["a.wav", "made.jsonl"]
